package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

const blockSize = 64 * 1024

// The device's service:
//
//	GET  /hello       "hello" and the query
//	POST /echo        the body back, its hash in Content-Sha256
//	GET  /bulk?n=N    N bytes, a multiple of 8: 64-bit big-endian numbers from 0 on
//	GET  /chunks?n=N  the numbers below N, a line and a chunk each
//	GET  /cut         a chunk, then nothing any more
//	GET  /hang        nothing at all
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.RawQuery)
	})
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/bulk", bulk)
	mux.HandleFunc("/chunks", func(w http.ResponseWriter, r *http.Request) {
		for number := range count(r) {
			fmt.Fprintf(w, "%d\n", number)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})
	return mux
}

func count(r *http.Request) int {
	number, _ := strconv.Atoi(r.FormValue("n"))
	return number
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	hash := sha256.Sum256(body)
	w.Header().Set("Content-Sha256", hex.EncodeToString(hash[:]))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	io.Copy(w, bytes.NewReader(body))
}

func bulk(w http.ResponseWriter, r *http.Request) {
	size := count(r)
	w.Header().Set("Content-Length", strconv.Itoa(size))
	block := make([]byte, blockSize)
	for sent := 0; sent < size; sent += blockSize {
		for at := 0; at < blockSize; at += 8 {
			binary.BigEndian.PutUint64(block[at:], uint64((sent+at)/8))
		}
		if _, err := w.Write(block[:min(blockSize, size-sent)]); err != nil {
			return
		}
	}
}
