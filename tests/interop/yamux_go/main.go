// A stock hashicorp/yamux peer for the interop tests.
//
// It dials the given address, becomes the yamux client or server, echoes every stream
// the other side opens, and obeys commands on stdin, one per line, each answered by
// one line on stdout:
//
//	ping            session.Ping()                          "ok" | "error ..."
//	open N SIZE     N streams at once, each sends SIZE bytes, half-closes and
//	                compares the echo                       "ok" | "error ..."
//	goaway          session.GoAway()                        "ok" | "error ..."
//	stats           streams echoed, reset and still open    "echoed A reset B open C"
//	quit            session.Close() and exit                "ok"
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

var echoed, reset atomic.Int64

func echo(stream *yamux.Stream) {
	_, err := io.Copy(stream, stream)
	if errors.Is(err, yamux.ErrConnectionReset) {
		reset.Add(1)
	} else if err == nil {
		echoed.Add(1)
	}
	stream.Close()
}

func acceptAll(session *yamux.Session, serve func(*yamux.Stream)) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go serve(stream)
	}
}

func roundTrip(session *yamux.Session, seed int64, size int) error {
	stream, err := session.OpenStream()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	data := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := stream.Write(data)
		if err == nil {
			err = stream.Close()
		}
		sent <- err
	}()
	back, err := io.ReadAll(stream)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if !bytes.Equal(data, back) {
		return fmt.Errorf("echo of %d bytes differs (%d)", size, len(back))
	}
	return nil
}

func openMany(session *yamux.Session, count, size int) error {
	results := make(chan error, count)
	for index := range count {
		go func() { results <- roundTrip(session, int64(index), size) }()
	}
	for range count {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}

func main() {
	address := flag.String("address", "", "where to dial")
	role := flag.String("role", "client", "client or server of the session")
	closeTimeout := flag.Duration("close-timeout", time.Minute, "half-closed streams are reset")
	closeFirst := flag.Bool("close-first", false, "half-close streams at once, do not echo")
	flag.Parse()

	conn, err := net.Dial("tcp", *address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config := yamux.DefaultConfig()
	config.LogOutput = os.Stderr
	config.EnableKeepAlive = false
	config.StreamCloseTimeout = *closeTimeout
	start := yamux.Client
	if *role == "server" {
		start = yamux.Server
	}
	session, err := start(conn, config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	serve := echo
	if *closeFirst {
		serve = func(stream *yamux.Stream) { stream.Close() }
	}
	go acceptAll(session, serve)

	answer := func(err error) {
		if err != nil {
			fmt.Printf("error %v\n", err)
		} else {
			fmt.Println("ok")
		}
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		var count, size int
		command := strings.Fields(commands.Text())
		switch command[0] {
		case "ping":
			_, err := session.Ping()
			answer(err)
		case "open":
			fmt.Sscan(strings.Join(command[1:], " "), &count, &size)
			answer(openMany(session, count, size))
		case "goaway":
			answer(session.GoAway())
		case "stats":
			fmt.Printf("echoed %d reset %d open %d\n",
				echoed.Load(), reset.Load(), session.NumStreams())
		case "quit":
			answer(session.Close())
			return
		}
	}
}
