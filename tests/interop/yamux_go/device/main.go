// A device made of a yamux library and an HTTP server, for the interop tests.
//
// Nothing in it is ours: it asks for a link as docs/protocol.md says (A device in a few
// lines), and what comes over it is HTTP/1.1 in yamux streams. The token is in the variable
// TOKEN. It ends when the link does.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/hashicorp/yamux"
)

// A connection whose first bytes may have been read along with the 101.
type upgraded struct {
	net.Conn
	reader *bufio.Reader
}

func (conn upgraded) Read(data []byte) (int, error) { return conn.reader.Read(data) }

func dial(address, token string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET /_proxy/link HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Connection: Upgrade\r\nUpgrade: proxy-engine-yamux\r\n\r\n", address, token)
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("refused: %s", answer.Status)
	}
	// A version or a window is only for who asked for one.
	for name := range answer.Header {
		if name != "Connection" && name != "Upgrade" {
			return nil, fmt.Errorf("unexpected field %s", name)
		}
	}
	return upgraded{conn, reader}, nil
}

func main() {
	address := flag.String("address", "", "the server")
	flag.Parse()
	conn, err := dial(*address, os.Getenv("TOKEN"))
	if err != nil {
		log.Fatal(err)
	}
	session, err := yamux.Client(conn, nil)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(http.Serve(session, handler()))
}
