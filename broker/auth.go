package broker

import (
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// authenticator decides who gets in and with which rights. It is called by the
// server, from the goroutine of each connection.
type authenticator struct {
	policy *policy.Policy
	admins bool // broker nodes' certificates are let in
	secret string
	log    *slog.Logger
	peers  *peers

	ready   <-chan struct{} // closed once the node is provisioned
	closing <-chan struct{} // closed when it stops

	server *server.Server // set before it runs
}

// newCredential returns a password that only this process knows.
func newCredential() string {
	b := make([]byte, credentialSize)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	var user *server.User
	var err error
	if state := c.GetTLSConnectionState(); state != nil {
		user, err = a.client(c, state)
	} else {
		user, err = a.own(c)
	}
	if err != nil {
		a.log.Warn("client refused", "remote", remote(c), "reason", err)
		return false
	}
	// The user has no name: with one, a reload of the server's options would
	// disconnect every client.
	c.RegisterUser(user)
	return true
}

// own is the node's connection to its own server, which runs inside the process.
// The server asks for no TLS there, so that nothing but the credential tells the
// node from other code in the process. A client with TLS never gets here.
func (a *authenticator) own(c server.ClientAuthentication) (*server.User, error) {
	if addr := c.RemoteAddress(); addr == nil || addr.Network() != inProcessNetwork {
		return nil, errors.New("no TLS")
	}
	options := c.GetOpts()
	if subtle.ConstantTimeCompare([]byte(options.Password), []byte(a.secret)) != 1 {
		return nil, errors.New("wrong credential inside the process")
	}
	return a.unlimited(options.Username)
}

// inProcessNetwork is the network of a connection that leaves no process.
var inProcessNetwork = func() string {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	return a.RemoteAddr().Network()
}()

// client is whoever came over the network. The handshake has verified the chain,
// the time and the form of the ID.
func (a *authenticator) client(c server.ClientAuthentication, state *tls.ConnectionState) (*server.User, error) {
	if c.Kind() != server.CLIENT {
		return nil, errors.New("not a client's connection")
	}
	id, err := identity.PeerID(*state)
	if err != nil {
		return nil, err
	}
	// Agents find the policy and the buckets there from the first moment.
	select {
	case <-a.ready:
	case <-a.closing:
		return nil, fmt.Errorf("%s came while the node is stopping", id)
	}
	user, err := a.user(id, c.GetOpts().Username)
	if err != nil {
		return nil, err
	}
	// Without this a client would outlive its certificate.
	user.ConnectionDeadline = state.PeerCertificates[0].NotAfter
	a.peers.add(a.server, Connection{
		ClientID: c.GetID(),
		ID:       id,
		Account:  user.Account.Name,
		Remote:   remote(c),
		Expires:  user.ConnectionDeadline,
	})
	a.log.Debug("client connected", "id", id.String(), "remote", remote(c), "account", user.Account.Name)
	return user, nil
}

// user returns what an identity may do. account is what the client asked for and
// counts for operators only.
func (a *authenticator) user(id identity.ID, account string) (*server.User, error) {
	if id.TrustDomain() != a.policy.TrustDomain() {
		return nil, fmt.Errorf("%s is of another trust domain than the policy, %q", id, a.policy.TrustDomain().Name())
	}
	if id.IsBroker() {
		if !a.admins {
			return nil, fmt.Errorf("%s is a broker node, and Config.AdminClients is off", id)
		}
		if account == "" {
			account = AccountAgents
		}
		return a.unlimited(account)
	}
	if a.policy.Revoked(id.Name()) {
		return nil, fmt.Errorf("%s is revoked by revision %d of the policy", id, a.policy.Revision())
	}
	rights := a.policy.Permissions(id.Name())
	if rights.Empty() {
		return nil, fmt.Errorf("%s is not known to revision %d of the policy", id, a.policy.Revision())
	}
	agents, err := a.server.LookupAccount(AccountAgents)
	if err != nil {
		return nil, err
	}
	return &server.User{Account: agents, Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: rights.Publish},
		Subscribe: &server.SubjectPermission{Allow: rights.Subscribe},
	}}, nil
}

// unlimited is a user with every permission in an account.
func (a *authenticator) unlimited(account string) (*server.User, error) {
	switch account {
	case AccountAgents, AccountStore, AccountSystem:
	default:
		return nil, fmt.Errorf("no account %.40q: there are %s, %s and %s", account, AccountAgents, AccountStore, AccountSystem)
	}
	found, err := a.server.LookupAccount(account)
	if err != nil {
		return nil, err
	}
	return &server.User{Account: found}, nil
}

func remote(c server.ClientAuthentication) string {
	addr := c.RemoteAddress()
	if addr == nil {
		return ""
	}
	return addr.String()
}
