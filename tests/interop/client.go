// A tunnel client with Go's TLS stack. It opens two sessions one after the other and sends each through the bytes that
// come back from an echo server, small messages first and then many at once in both directions.
//
// Usage: client ADDRESS VERSION SUITE, in a folder with ca.pem, device.pem and device.key. SUITE is for TLS 1.2, of which
// alone Go lets a client choose one. It prints what was negotiated and whether the second session was resumed.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
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
	config := &tls.Config{
		RootCAs:            roots,
		ServerName:         "localhost",
		Certificates:       []tls.Certificate{identity},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	switch os.Args[2] {
	case "1.2":
		config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		for _, suite := range tls.CipherSuites() {
			if suite.Name == os.Args[3] {
				config.CipherSuites = []uint16{suite.ID}
			}
		}
	case "1.3":
		config.MinVersion = tls.VersionTLS13
	}
	for session := 1; session <= 2; session++ {
		talk(config, session)
	}
}

func talk(config *tls.Config, session int) {
	tunnel, err := tls.Dial("tcp", os.Args[1], config)
	check(err)
	defer tunnel.Close()
	check(tunnel.SetDeadline(time.Now().Add(30 * time.Second)))
	state := tunnel.ConnectionState()
	fmt.Printf("session %d: %x %s resumed %t\n", session, state.Version, tls.CipherSuiteName(state.CipherSuite), state.DidResume)

	_, err = io.WriteString(tunnel, "CONNECT web.test:80 HTTP/1.1\r\nHost: web.test:80\r\n\r\n")
	check(err)
	reader := bufio.NewReader(tunnel)
	response, err := http.ReadResponse(reader, &http.Request{Method: "CONNECT"})
	check(err)
	fmt.Println("status", response.StatusCode)

	for round := 0; round < 20; round++ {
		exchange(tunnel, reader, bytes.Repeat([]byte{byte('a' + round)}, 1+round*7))
	}
	exchange(tunnel, reader, bytes.Repeat([]byte("0123456789abcdef"), 1<<17))
	check(tunnel.CloseWrite())
	rest, err := io.ReadAll(reader)
	check(err)
	fmt.Printf("session %d ended with %d bytes left\n", session, len(rest))
}

func exchange(tunnel *tls.Conn, reader io.Reader, message []byte) {
	sent := make(chan error)
	go func() {
		_, err := tunnel.Write(message)
		sent <- err
	}()
	answer := make([]byte, len(message))
	_, err := io.ReadFull(reader, answer)
	check(err)
	check(<-sent)
	if !bytes.Equal(message, answer) {
		check(fmt.Errorf("%d bytes came back changed", len(message)))
	}
}
