package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// people shows who takes part, by which certificates, and under which policy.
func people(ctx context.Context, s *scene) error {
	s.say("Each agent has a certificate of its own. The policy says who may do what; an operator signed it.")
	serials := make(map[string]bool)
	for _, m := range s.members() {
		id, svid, err := identity.Self(m.src)
		if err != nil {
			return err
		}
		serials[svid.Certificates[0].SerialNumber.String()] = true
		s.page.block(fmt.Sprintf("%-9s %-38s certificate until %s", m.name, id, m.until.Local().Format("15:04:05")))
	}
	s.page.block(fmt.Sprintf("%-9s %s", "operator", s.operator.Fingerprint()))
	s.page.print("")
	s.page.block(rulesText)
	s.page.print("")

	var state tls.ConnectionState
	good := 0
	for _, m := range s.members() {
		var err error
		if state, err = s.handshake(ctx, m); err != nil {
			return err
		}
		peer, err := identity.PeerID(state)
		if err != nil {
			return err
		}
		if state.Version == tls.VersionTLS13 && state.CurveID == tls.X25519MLKEM768 && peer.IsBroker() {
			good++
		}
	}
	s.fact(len(serials) == len(s.members()), "%d agents, %d certificates, and no password or key typed by anyone", len(s.members()), len(serials))
	s.fact(good == len(s.members()), "each connects by mutual %s, keys agreed by %s (post-quantum)", tls.VersionName(state.Version), state.CurveID)
	same := 0
	for _, m := range s.members() {
		if p := m.bus.Policy(); p.Hash() == s.node.Policy().Hash() {
			same++
		}
	}
	s.fact(same == len(s.members()), "all of them follow revision %d of the policy, %.19s…", s.node.Policy().Revision(), policy.FormatHash(s.node.Policy().Hash()))
	s.fact(s.first < 5*time.Second, "the first message came %d ms after its readers had subscribed; keys came by themselves", s.first.Milliseconds())
	s.figure("agents", len(s.members()))
	s.figure("certificates", len(serials))
	s.figure("tls", tls.VersionName(state.Version))
	s.figure("key_exchange", state.CurveID.String())
	s.figure("policy_revision", s.node.Policy().Revision())
	s.figure("first_message_ms", s.first.Milliseconds())
	return nil
}

// say prints running text.
func (s *scene) say(format string, args ...any) { s.page.say(format, args...) }

// handshake connects once more as an agent does, to look at the connection.
func (s *scene) handshake(ctx context.Context, m *member) (tls.ConnectionState, error) {
	config, err := identity.ClientTLS(m.src, node)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.node.Addr().String())
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer nc.Close()
	c := tls.Client(nc, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	return c.ConnectionState(), nil
}
