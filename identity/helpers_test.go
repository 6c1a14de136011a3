package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

var example = spiffeid.RequireTrustDomainFromString("example.org")

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCA(t testing.TB, td string) *devca.CA {
	t.Helper()
	return must[*devca.CA](t)(devca.New(td))
}

func agent(t testing.TB, ca *devca.CA, name string) *x509svid.SVID {
	t.Helper()
	return must[*x509svid.SVID](t)(ca.Agent(name, time.Hour))
}

func agentSource(t testing.TB, ca *devca.CA, name string) *identity.Memory {
	t.Helper()
	return must[*identity.Memory](t)(ca.AgentSource(name, time.Hour))
}

func brokerSource(t testing.TB, ca *devca.CA, node string) *identity.Memory {
	t.Helper()
	return must[*identity.Memory](t)(ca.BrokerSource(node, time.Hour))
}

// issue makes a certificate that is valid for an hour and then edited.
func issue(t testing.TB, ca *devca.CA, id string, edit func(*x509.Certificate)) *x509svid.SVID {
	t.Helper()
	now := time.Now()
	return must[*x509svid.SVID](t)(ca.Issue(devca.Template{
		ID: identity.MustParseID(id), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Edit: edit,
	}))
}

// expired makes a certificate that ended a minute ago.
func expired(t testing.TB, ca *devca.CA, id string) *x509svid.SVID {
	t.Helper()
	now := time.Now()
	return must[*x509svid.SVID](t)(ca.Issue(devca.Template{
		ID: identity.MustParseID(id), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Minute),
	}))
}

// wantError checks that err matches target, if any, and says all of words.
func wantError(t testing.TB, err, target error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if target != nil && !errors.Is(err, target) {
		t.Errorf("error %q does not match %q", err, target)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(name))
}

func writeFile(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func serverTLS(t testing.TB, src identity.Source) *tls.Config {
	t.Helper()
	return must[*tls.Config](t)(identity.ServerTLS(src))
}

func clientTLS(t testing.TB, src identity.Source, brokers ...string) *tls.Config {
	t.Helper()
	return must[*tls.Config](t)(identity.ClientTLS(src, brokers...))
}
