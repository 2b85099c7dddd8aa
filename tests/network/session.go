// One session with Go's TLS stack: a tunnel, and some bytes there and back.
//
// Usage: session ADDRESS PORT, in a folder with ca.pem, device.pem and device.key.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	authority, err := os.ReadFile("ca.pem")
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	identity, err := tls.LoadX509KeyPair("device.pem", "device.key")
	check(err)
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{identity}}
	tunnel, err := tls.Dial("tcp", net.JoinHostPort(os.Args[1], os.Args[2]), config)
	check(err)
	check(tunnel.SetDeadline(time.Now().Add(60 * time.Second)))
	words := bytes.Repeat([]byte("some bytes of the tunnel"), 40)
	_, err = tunnel.Write(append([]byte("CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n"), words...))
	check(err)
	var seen []byte
	piece := make([]byte, 4096)
	for !bytes.HasSuffix(seen, words) {
		count, err := tunnel.Read(piece)
		seen = append(seen, piece[:count]...)
		if err == io.EOF {
			break
		}
		check(err)
	}
	if !bytes.HasPrefix(seen, []byte("HTTP/1.1 200")) || !bytes.HasSuffix(seen, words) {
		check(fmt.Errorf("%d bytes came back: %.60q", len(seen), seen))
	}
}
