package devca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

func newCA(t *testing.T, options ...devca.Option) *devca.CA {
	t.Helper()
	ca, err := devca.New("example.org", options...)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestIssuedCertificates(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ca := newCA(t, devca.WithClock(func() time.Time { return now }))
	for _, test := range []struct {
		issue func(string, time.Duration) (*x509svid.SVID, error)
		id    string
	}{{ca.Agent, "spiffe://example.org/agent/x"}, {ca.Broker, "spiffe://example.org/broker/x"}} {
		for _, validity := range []time.Duration{devca.MinValidity, time.Hour, devca.MaxValidity} {
			svid, err := test.issue("x", validity)
			if err != nil {
				t.Fatal(err)
			}
			id, chains, err := x509svid.Verify(svid.Certificates, ca.Bundle(), x509svid.WithTime(now.Add(validity)))
			if err != nil || id.String() != test.id || len(chains) == 0 {
				t.Errorf("%s at its last second: %s, %v", test.id, id, err)
			}
			if _, _, err := x509svid.Verify(svid.Certificates, ca.Bundle(), x509svid.WithTime(now.Add(validity+time.Second))); err == nil {
				t.Errorf("%s outlives its validity", test.id)
			}
			if self, _, err := identity.Self(identity.NewMemory(svid, ca.Bundle())); err != nil || self.String() != test.id {
				t.Errorf("Self: %s, %v", self, err)
			}
			leaf := svid.Certificates[0]
			if leaf.PublicKeyAlgorithm != x509.ECDSA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA || len(leaf.ExtKeyUsage) != 2 {
				t.Errorf("certificate: %v, usage %v, CA %v", leaf.PublicKeyAlgorithm, leaf.KeyUsage, leaf.IsCA)
			}
		}
		for _, validity := range []time.Duration{-1, 0, devca.MinValidity - 1, devca.MaxValidity + 1} {
			if _, err := test.issue("x", validity); !errors.Is(err, devca.ErrValidity) {
				t.Errorf("validity %v: %v", validity, err)
			}
		}
		if _, err := test.issue("X", time.Hour); !errors.Is(err, identity.ErrInvalidID) {
			t.Errorf("bad name: %v", err)
		}
	}
	if _, err := devca.New("Example Org"); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("bad trust domain: %v", err)
	}
}

func TestIssue(t *testing.T) {
	ca := newCA(t)
	now := time.Now().Truncate(time.Second).UTC()
	id := identity.MustParseID("spiffe://other.org/agent/x")
	svid, err := ca.Issue(devca.Template{
		ID: id, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour),
		Edit: func(c *x509.Certificate) { c.DNSNames = []string{"edited"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	leaf := svid.Certificates[0]
	if !leaf.NotBefore.Equal(now.Add(-2*time.Hour)) || !leaf.NotAfter.Equal(now.Add(-time.Hour)) || leaf.DNSNames[0] != "edited" || svid.ID != id.SPIFFEID() {
		t.Errorf("issued %s from %v to %v", svid.ID, leaf.NotBefore, leaf.NotAfter)
	}
	if _, err := ca.Issue(devca.Template{ID: id, NotBefore: now, NotAfter: now}); !errors.Is(err, devca.ErrValidity) {
		t.Errorf("times out of order: %v", err)
	}
	if _, err := ca.Issue(devca.Template{NotBefore: now, NotAfter: now.Add(1)}); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("no ID: %v", err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	if _, err := devca.LoadCA(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load from nowhere: %v", err)
	}
	svid, err := ca.Agent("planner", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	// The authority's certificate may be there from WriteFiles already.
	if _, _, _, err := ca.WriteFiles(dir, svid); err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca-key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	again, err := devca.LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Bundle().Equal(ca.Bundle()) || again.TrustDomain() != ca.TrustDomain() {
		t.Error("another authority was loaded")
	}
	later, err := again.Agent("planner", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x509svid.Verify(later.Certificates, ca.Bundle()); err != nil {
		t.Error(err)
	}

	before := snapshot(t, dir)
	other := newCA(t)
	if err := other.Save(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("save over another: %v", err)
	}
	if _, _, _, err := other.WriteFiles(dir, svid); !errors.Is(err, fs.ErrExist) {
		t.Errorf("write beside another: %v", err)
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("changed by what failed:\n%s\nbefore:\n%s", after, before)
	}
}

// An authority that cannot be saved whole leaves no key behind.
func TestSaveBesideAnothersCertificate(t *testing.T) {
	dir, ca, other := t.TempDir(), newCA(t), newCA(t)
	svid, err := ca.Agent("planner", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := ca.WriteFiles(dir, svid); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	if err := other.Save(dir); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("save: %v", err)
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("changed by what failed:\n%s", after)
	}
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s: %x\n", entry.Name(), data)
	}
	return out.String()
}

func TestLoadRefuses(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	good, foreign := t.TempDir(), t.TempDir()
	if err := errors.Join(ca.Save(good), other.Save(foreign)); err != nil {
		t.Fatal(err)
	}
	read := func(dir, name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	cert, key := read(good, "ca.pem"), read(good, "ca-key.pem")
	for name, test := range map[string]struct {
		cert, key []byte
		words     string
	}{
		"another's key":     {cert, read(foreign, "ca-key.pem"), "not that of the certificate"},
		"empty certificate": {nil, key, "no PEM"},
		"empty key":         {cert, nil, "no PEM"},
		"swapped":           {key, cert, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := errors.Join(os.WriteFile(filepath.Join(dir, "ca.pem"), test.cert, 0o600), os.WriteFile(filepath.Join(dir, "ca-key.pem"), test.key, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := devca.LoadCA(dir); err == nil || !strings.Contains(err.Error(), test.words) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestWriteFiles(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	for _, id := range []string{"spiffe://example.org/agent/n1", "spiffe://example.org/broker/n1", "spiffe://example.org/agent/n1"} {
		svid, err := ca.Issue(devca.Template{ID: identity.MustParseID(id), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		cert, key, authorities, err := ca.WriteFiles(dir, svid)
		if err != nil {
			t.Fatal(err)
		}
		src, err := identity.LoadFiles(cert, key, authorities)
		if err != nil {
			t.Fatal(err)
		}
		if self, got, err := identity.Self(src); err != nil || self.String() != id || !got.Certificates[0].Equal(svid.Certificates[0]) {
			t.Errorf("%s: loaded %s, %v", id, self, err)
		}
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key file: %v, %v", info.Mode(), err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 5 {
		t.Errorf("files: %v, %v", entries, err)
	}
	for _, name := range []string{"ca", "n1-key"} {
		svid, err := ca.Agent(name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ca.WriteFiles(dir, svid); err == nil || !strings.Contains(err.Error(), "choose another name") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, _, err := ca.WriteFiles(filepath.Join(dir, "none"), mustAgent(t, ca)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func mustAgent(t *testing.T, ca *devca.CA) *x509svid.SVID {
	t.Helper()
	svid, err := ca.Agent("planner", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func TestPrintsRedacted(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%p"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", ca, *ca, struct{ CA *devca.CA }{ca})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("ca", "ca", ca)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("ca", "ca", ca)
	block, _ := pem.Decode(data)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := parsed.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	number := new(big.Int).SetBytes(secret)
	for _, form := range []string{string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), number.String(), strings.Trim(fmt.Sprint(secret), "[]")} {
		if strings.Contains(out.String(), form) {
			t.Error("the key shows")
		}
	}
	if !strings.Contains(out.String(), "development CA of example.org") {
		t.Errorf("printed as %s", out.String())
	}
}

func Example() {
	ca, err := devca.New("example.org")
	if err != nil {
		log.Fatal(err)
	}
	planner, err := ca.AgentSource("planner", time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	node, err := ca.BrokerSource("n1", time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	for _, src := range []identity.Source{planner, node} {
		id, _, err := identity.Self(src)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(id)
	}
	// Output:
	// spiffe://example.org/agent/planner
	// spiffe://example.org/broker/n1
}
