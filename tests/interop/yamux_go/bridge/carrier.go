package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

const (
	path        = "/_proxy/link"
	subprotocol = "proxy-engine.yamux"
	rawUpgrade  = "proxy-engine-yamux"
)

// A connection whose first bytes may have been read along with the handshake.
type upgraded struct {
	net.Conn
	reader *bufio.Reader
}

func (conn upgraded) Read(data []byte) (int, error) { return conn.reader.Read(data) }

// dial asks for a link as docs/protocol.md says.
func dial() (net.Conn, error) {
	authorization := "Bearer " + *token
	if *carrier == "websocket" {
		conn, _, err := websocket.Dial(context.Background(), "ws://"+*connect+path,
			&websocket.DialOptions{
				HTTPHeader:   http.Header{"Authorization": {authorization}},
				Subprotocols: []string{subprotocol},
			})
		if err != nil {
			return nil, err
		}
		return stream(conn), nil
	}
	conn, err := net.Dial("tcp", *connect)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n"+
		"Connection: Upgrade\r\nUpgrade: %s\r\n\r\n", path, *connect, authorization, rawUpgrade)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("refused: %s", response.Status)
	}
	return upgraded{conn, reader}, nil
}

// answer waits for one link and accepts it as a server of version 1 would.
func answer(links net.Listener) (net.Conn, error) {
	made := make(chan net.Conn)
	failed := make(chan error)
	go http.Serve(links, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := accepted(w, r)
		if err != nil {
			failed <- err
			return
		}
		made <- conn
		if *carrier == "websocket" {
			select {} // its connection ends with this function
		}
	}))
	select {
	case conn := <-made:
		return conn, nil
	case err := <-failed:
		return nil, err
	}
}

func accepted(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	w.Header().Set("Proxy-Engine-Version", "1")
	w.Header().Set("Proxy-Engine-Window", "262144")
	if *carrier == "websocket" {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols: []string{subprotocol},
		})
		if err != nil {
			return nil, err
		}
		return stream(conn), nil
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", rawUpgrade)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	return upgraded{conn, buffered.Reader}, nil
}

func stream(conn *websocket.Conn) net.Conn {
	conn.SetReadLimit(-1)
	return websocket.NetConn(context.Background(), conn, websocket.MessageBinary)
}
