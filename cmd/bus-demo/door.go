package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

// visitor is somebody who comes to the broker's port.
type visitor struct {
	what   string
	svid   *x509svid.SVID // nil: no certificate
	plain  bool           // no TLS at all
	oldest bool           // nothing newer than TLS 1.2
}

// door has all sorts of strangers connect.
func door(ctx context.Context, s *scene) error {
	s.say("Others come over the network. The broker says nothing at all before the handshake is done.")
	list, err := s.visitors()
	if err != nil {
		return err
	}
	refused := 0
	for _, v := range list {
		in, outcome, err := s.knock(ctx, v)
		if err != nil {
			return err
		}
		if !in {
			refused++
		}
		s.attempt(!in, v.what, outcome)
	}
	good, err := s.ca.Agent(s.scout.name, certLife)
	if err != nil {
		return err
	}
	in, outcome, err := s.knock(ctx, visitor{svid: good})
	if err != nil {
		return err
	}
	if !s.fact(in, "with a good certificate the same knock gets in") {
		s.say("         (%s)", outcome)
	}
	s.figure("visitors", len(list))
	s.figure("refused", refused)
	return nil
}

func (s *scene) visitors() ([]visitor, error) {
	var errs []error
	must := func(svid *x509svid.SVID, err error) *x509svid.SVID {
		errs = append(errs, err)
		return svid
	}
	other, err := devca.New(domain)
	if err != nil {
		return nil, err
	}
	abroad, err := devca.New("elsewhere.example")
	if err != nil {
		return nil, err
	}
	now := time.Now()
	list := []visitor{
		{what: "no TLS", plain: true},
		{what: "TLS 1.2, with a good certificate", svid: must(s.ca.Agent(s.scout.name, certLife)), oldest: true},
		{what: "no certificate"},
		{what: "a certificate of another authority, for “scout”", svid: must(other.Agent(s.scout.name, certLife))},
		{what: "a certificate of another trust domain", svid: must(abroad.Agent(s.scout.name, certLife))},
		{what: "the scout's certificate, a minute after it expired",
			svid: must(s.ca.Issue(devca.Template{ID: s.scout.bus.Self(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Minute)}))},
		{what: "a good certificate, of somebody not in the policy", svid: must(s.ca.Agent("stranger", certLife))},
	}
	return list, errors.Join(errs...)
}

// knock connects and reports whether the broker would have served, and else what it said.
func (s *scene) knock(ctx context.Context, v visitor) (in bool, outcome string, err error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.node.Addr().String())
	if err != nil {
		return false, "", err
	}
	defer nc.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(d); err != nil {
			return false, "", err
		}
	}
	// The broker's part of a handshake ends after the client's: a refusal is the answer to what is sent next.
	in, err = converse(v.wrap(nc))
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, "", fmt.Errorf("%s: the broker neither served nor refused: %w", v.what, err)
	default:
		outcome = explain(err)
	}
	return in, outcome, nil
}

// wrap speaks TLS as the visitor does. It accepts any broker: the visitor is not the one to be protected.
func (v visitor) wrap(nc net.Conn) net.Conn {
	if v.plain {
		return nc
	}
	config := &tls.Config{InsecureSkipVerify: true}
	if v.oldest {
		config.MaxVersion = tls.VersionTLS12
	}
	if v.svid != nil {
		c := tls.Certificate{PrivateKey: v.svid.PrivateKey}
		for _, cert := range v.svid.Certificates {
			c.Certificate = append(c.Certificate, cert.Raw)
		}
		config.Certificates = []tls.Certificate{c}
	}
	return tls.Client(nc, config)
}

// converse says hello in NATS's protocol and reports whether the broker answers as to a client.
func converse(c net.Conn) (bool, error) {
	if _, err := io.WriteString(c, "CONNECT {\"verbose\":false}\r\nPING\r\n"); err != nil {
		return false, err
	}
	lines := bufio.NewScanner(io.LimitReader(c, 64<<10))
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "PONG"):
			return true, nil
		case strings.HasPrefix(line, "-ERR"):
			return false, errors.New(strings.ToLower(strings.Trim(strings.TrimPrefix(line, "-ERR "), "'")))
		}
	}
	if err := lines.Err(); err != nil {
		return false, err
	}
	return false, io.EOF
}

// explain says in few words why a connection ended.
func explain(err error) string {
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case errors.Is(err, identity.ErrPeer):
		return err.Error()
	case errors.As(err, &alert):
		return strings.TrimPrefix(alert.Error(), "tls: ")
	case errors.Is(err, io.EOF):
		return "closed without a word"
	case errors.As(err, &op):
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return err.Error()
}
