// hashicorp/yamux as the far end of a link, for tests/interop/test_links.py.
//
// Each stream of the session is joined to a TCP connection, byte by byte, with half-close
// and resets, so that the test holds both ends of it. As a device it dials a server, and
// connects each stream that the server opens to the target:
//
//	bridge --role device --carrier raw --connect HOST:PORT --token T --target HOST:PORT
//
// As a server it waits for an agent's link, and opens a stream for each visitor:
//
//	bridge --role server --carrier websocket
//
// On stdout it says "ports LINK VISITORS" as a server, then "up" with the session. After that,
// each line on stdin is a command and has one line of answer: ping, goaway, streams (how many
// are there now). It ends with its link or its stdin. --write N gathers N bytes before they
// are written to a stream at once, but for the first ones. --reset-after N (ms) is how long a closed stream may stay
// half open: the only way to a reset that this library has.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/hashicorp/yamux"
)

var (
	role       = flag.String("role", "device", "device or server")
	carrier    = flag.String("carrier", "raw", "raw or websocket")
	connect    = flag.String("connect", "", "device: the server")
	token      = flag.String("token", "", "device: what the server knows it by")
	target     = flag.String("target", "", "device: where streams lead")
	writeSize  = flag.Int("write", 0, "bytes gathered for one write to a stream")
	resetAfter = flag.Int("reset-after", 0, "ms a closed stream may stay half open; 0: 5 minutes")
)

func config() *yamux.Config {
	config := yamux.DefaultConfig()
	if *resetAfter > 0 {
		config.StreamCloseTimeout = time.Duration(*resetAfter) * time.Millisecond
	}
	return config
}

// join copies both ways until both are done; what breaks on one side is broken off on the other.
func join(stream *yamux.Stream, conn *net.TCPConn) {
	go func() {
		if err := send(stream, conn); err != nil {
			conn.SetLinger(0)
			conn.Close()
		}
		stream.Close()
	}()
	if _, err := io.Copy(conn, stream); err != nil {
		conn.SetLinger(0)
		conn.Close()
		stream.Close()
		return
	}
	conn.CloseWrite()
}

func send(stream *yamux.Stream, conn *net.TCPConn) error {
	if *writeSize == 0 {
		_, err := io.Copy(onlyWriter{stream}, conn)
		return err
	}
	block := make([]byte, *writeSize)
	// The first bytes are a head that somebody waits for.
	size, err := conn.Read(block)
	for {
		if size > 0 {
			if _, err := stream.Write(block[:size]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		} else if err != nil {
			return err
		}
		size, err = io.ReadFull(conn, block)
	}
}

type onlyWriter struct{ io.Writer }

func accept(session *yamux.Session, take func(*yamux.Stream)) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go take(stream)
	}
}

func toTarget(stream *yamux.Stream) {
	conn, err := net.Dial("tcp", *target)
	if err != nil {
		stream.Close()
		return
	}
	join(stream, conn.(*net.TCPConn))
}

func fromVisitors(session *yamux.Session, visitors net.Listener) {
	for {
		conn, err := visitors.Accept()
		if err != nil {
			return
		}
		go func() {
			stream, err := session.OpenStream()
			if err != nil {
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
				return
			}
			join(stream, conn.(*net.TCPConn))
		}()
	}
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func obey(session *yamux.Session) {
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		var err error
		switch commands.Text() {
		case "ping":
			_, err = session.Ping()
		case "goaway":
			err = session.GoAway()
		case "streams":
			fmt.Println(session.NumStreams())
			continue
		}
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println("ok")
		}
	}
	session.Close()
}

func main() {
	flag.Parse()
	var session *yamux.Session
	if *role == "device" {
		conn, err := dial()
		if err != nil {
			log.Fatal(err)
		}
		session, err = yamux.Client(conn, config())
		if err != nil {
			log.Fatal(err)
		}
		go accept(session, toTarget)
	} else {
		links, visitors := listen(), listen()
		fmt.Println("ports", port(links), port(visitors))
		conn, err := answer(links)
		if err != nil {
			log.Fatal(err)
		}
		session, err = yamux.Server(conn, config())
		if err != nil {
			log.Fatal(err)
		}
		// The control stream, which nobody reads here.
		go accept(session, func(stream *yamux.Stream) { io.Copy(io.Discard, stream) })
		go fromVisitors(session, visitors)
	}
	fmt.Println("up")
	go obey(session)
	<-session.CloseChan()
}

func port(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }
