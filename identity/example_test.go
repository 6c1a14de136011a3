package identity_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

func ExampleParseID() {
	id, err := identity.ParseID("spiffe://example.org/agent/planner")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id.TrustDomain(), id.Name(), id.IsAgent())

	_, err = identity.ParseID("spiffe://example.org/planner")
	fmt.Println(err)
	// Output:
	// example.org planner true
	// invalid SPIFFE ID "spiffe://example.org/planner": neither an agent's nor a broker's; write spiffe://<trust domain>/agent/<name> or spiffe://<trust domain>/broker/<node>
}

// An agent reads its certificate from files, which are read again when they
// change.
func ExampleLoadFiles() {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ca, err := devca.New("example.org")
	if err != nil {
		log.Fatal(err)
	}
	svid, err := ca.Agent("planner", time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	cert, key, authorities, err := ca.WriteFiles(dir, svid)
	if err != nil {
		log.Fatal(err)
	}

	src, err := identity.LoadFiles(cert, key, authorities)
	if err != nil {
		log.Fatal(err)
	}
	id, _, err := identity.Self(src)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)

	_, err = identity.LoadFiles(cert, filepath.Join(dir, "typo.pem"), authorities)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// spiffe://example.org/agent/planner
	// true
}

// An agent and a broker node meet over mutual TLS and know who the other is.
func ExampleServerTLS() {
	ca, err := devca.New("example.org")
	if err != nil {
		log.Fatal(err)
	}
	node, err := ca.BrokerSource("n1", time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	planner, err := ca.AgentSource("planner", time.Hour)
	if err != nil {
		log.Fatal(err)
	}

	serverConfig, err := identity.ServerTLS(node)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", serverConfig)
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	greeted := make(chan error, 1)
	go func() { greeted <- greet(listener) }()

	clientConfig, err := identity.ClientTLS(planner, "n1")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := tls.Dial("tcp", listener.Addr().String(), clientConfig)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	peer, err := identity.PeerID(conn.ConnectionState())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("connected to", peer)
	if err := <-greeted; err != nil {
		log.Fatal(err)
	}
	// Unordered output:
	// connected to spiffe://example.org/broker/n1
	// connection of spiffe://example.org/agent/planner
}

func greet(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	tlsConn := conn.(*tls.Conn)
	if err := tlsConn.Handshake(); err != nil {
		return err
	}
	peer, err := identity.PeerID(tlsConn.ConnectionState())
	if err != nil {
		return err
	}
	fmt.Println("connection of", peer)
	return nil
}

// The operator signs; everybody else has only the fingerprint of the key.
func ExampleSignStatement() {
	type notice struct {
		IssuedAt int64  `json:"iat"`
		Text     string `json:"text"`
	}
	operator, err := identity.GenerateOperatorKey()
	if err != nil {
		log.Fatal(err)
	}
	raw, err := identity.SignStatement("example-notice", notice{time.Now().Unix(), "maintenance at noon"}, "", operator.Signer())
	if err != nil {
		log.Fatal(err)
	}

	u, err := identity.ParseStatement(raw, "example-notice")
	if err != nil {
		log.Fatal(err)
	}
	var n notice
	if _, err := u.Verify(operator.Public(), &n); err != nil {
		log.Fatal(err)
	}
	fmt.Println(n.Text)

	_, err = identity.ParseStatement(raw, "example-order")
	fmt.Println(errors.Is(err, identity.ErrStatement))
	// Output:
	// maintenance at noon
	// true
}

// An agent signs with the key of its certificate, and whoever trusts the
// authority learns who signed.
func ExampleSignSVIDStatement() {
	type hello struct {
		IssuedAt int64  `json:"iat"`
		Text     string `json:"text"`
	}
	ca, err := devca.New("example.org")
	if err != nil {
		log.Fatal(err)
	}
	svid, err := ca.Agent("planner", time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	raw, err := identity.SignSVIDStatement("example-hello", hello{time.Now().Unix(), "hello"}, svid)
	if err != nil {
		log.Fatal(err)
	}

	u, err := identity.ParseStatement(raw, "example-hello")
	if err != nil {
		log.Fatal(err)
	}
	var h hello
	id, _, err := u.VerifySVID(ca.Bundle(), ca.TrustDomain(), time.Now(), &h)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id, "says", h.Text)
	// Output: spiffe://example.org/agent/planner says hello
}

func ExampleOperatorKey() {
	key, err := identity.GenerateOperatorKey()
	if err != nil {
		log.Fatal(err)
	}
	// Only the fingerprint shows, however the key is printed.
	fmt.Println(fmt.Sprintf("%+v", key) == "operator key "+key.Fingerprint().String())
	// Output: true
}
