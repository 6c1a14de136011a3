package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

// clock is a clock that stands still until it is moved.
type clock struct{ offset atomic.Int64 }

var clockStart = time.Now()

func (c *clock) now() time.Time          { return clockStart.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// reloading is a source of files under a clock of the test's own.
type reloading struct {
	t     testing.TB
	ca    *devca.CA
	dir   string
	first *x509svid.SVID
	paths
	clock
	src *identity.Files
}

func newReloading(t testing.TB) *reloading {
	t.Helper()
	r := &reloading{t: t, ca: newCA(t, "example.org"), dir: t.TempDir()}
	r.first = agent(t, r.ca, "planner")
	r.paths = writeFiles(t, r.ca, r.dir, r.first)
	r.src = must[*identity.Files](t)(identity.LoadFilesAt(r.cert, r.key, r.paths.ca, r.now))
	return r
}

// wantServed checks which certificate is served a second later, and whether the
// source has an error to tell.
func (r *reloading) wantServed(want *x509svid.SVID, target error, words ...string) {
	r.t.Helper()
	r.advance(identity.CheckInterval)
	got, err := r.src.GetX509SVID()
	if err != nil {
		r.t.Fatal(err)
	}
	if !got.Certificates[0].Equal(want.Certificates[0]) {
		r.t.Error("another certificate is served")
	}
	if !want.PrivateKey.(*ecdsa.PrivateKey).Equal(got.PrivateKey) {
		r.t.Error("another key is served")
	}
	if target == nil && len(words) == 0 {
		if err := r.src.Err(); err != nil {
			r.t.Errorf("error left: %v", err)
		}
		return
	}
	wantError(r.t, r.src.Err(), target, words...)
}

func TestFilesRenewal(t *testing.T) {
	r := newReloading(t)
	next := agent(t, r.ca, "planner")
	writeFiles(t, r.ca, r.dir, next)
	r.advance(identity.CheckInterval - 1)
	if got, err := r.src.GetX509SVID(); err != nil || !got.Certificates[0].Equal(r.first.Certificates[0]) {
		t.Errorf("the files were looked at before a second had passed, or %v", err)
	}
	r.advance(-identity.CheckInterval + 1)
	r.wantServed(next, nil)
}

func TestFilesReloadNow(t *testing.T) {
	r := newReloading(t)
	next := agent(t, r.ca, "planner")
	writeFiles(t, r.ca, r.dir, next)
	if err := r.src.Reload(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.src.GetX509SVID(); err != nil || !got.Certificates[0].Equal(next.Certificates[0]) {
		t.Errorf("the old certificate is served, or %v", err)
	}
	writeFile(t, r.cert, nil)
	wantError(t, r.src.Reload(), nil, r.cert, "empty")
}

// A renewal that writes its two files one after the other, in place and slowly,
// is seen at every stage.
func TestFilesHalfWritten(t *testing.T) {
	for _, order := range []string{"key first", "certificate first"} {
		t.Run(order, func(t *testing.T) {
			r := newReloading(t)
			next := agent(t, r.ca, "planner")
			cert, key := mustPEM(t, next)
			files, data := []string{r.key, r.cert}, [][]byte{key, cert}
			if order == "certificate first" {
				files, data = []string{r.cert, r.key}, [][]byte{cert, key}
			}
			for i, file := range files {
				// Cut within the last block; what is missing of the last
				// line end is nothing.
				for n := 0; n < len(data[i])-1; n += 1 + len(data[i])/40 {
					writeFile(t, file, data[i][:n])
					r.wantServed(r.first, nil, file)
				}
				writeFile(t, file, data[i])
				if i == 0 {
					r.wantServed(r.first, identity.ErrCertificate, "not that of the certificate")
				}
			}
			r.wantServed(next, nil)
		})
	}
}

// Kubernetes mounts secrets as links through ..data, which it points elsewhere
// in one step. Nothing tells old from new but the file behind the link.
func TestFilesSymlinkSwap(t *testing.T) {
	dir, ca := t.TempDir(), newCA(t, "example.org")
	old := clockStart.Add(-time.Hour)
	version := func(name string, svid *x509svid.SVID) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := mustPEM(t, svid)
		authorities := must[[]byte](t)(ca.Bundle().Marshal())
		for file, data := range map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": authorities} {
			// All of one size and time.
			data = append(data, bytes.Repeat([]byte("\n"), 4096-len(data))...)
			writeFile(t, filepath.Join(dir, name, file), data)
			if err := os.Chtimes(filepath.Join(dir, name, file), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	first, next := agent(t, ca, "planner"), agent(t, ca, "planner")
	version("..1", first)
	version("..2", next)
	link("..1", "..data")
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
		link(filepath.Join("..data", file), file)
	}
	p := paths{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
	r := &reloading{t: t, ca: ca, first: first, paths: p}
	r.src = must[*identity.Files](t)(identity.LoadFilesAt(p.cert, p.key, p.ca, r.now))
	r.wantServed(first, nil)

	r.advance(time.Minute)
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	r.wantServed(next, nil)
}

// File systems stamp files from a clock that ticks every few milliseconds: a
// file that was written twice within a tick does not look changed.
func TestFilesWrittenTwiceInOneTick(t *testing.T) {
	r := newReloading(t)
	next := agent(t, r.ca, "planner")
	cert, key := mustPEM(t, next)
	write := func(file string, data []byte) {
		data = append(data, bytes.Repeat([]byte("\n"), 4096-len(data))...)
		writeFile(t, file, data)
		if err := os.Chtimes(file, clockStart, clockStart); err != nil {
			t.Fatal(err)
		}
	}
	firstCert, firstKey := mustPEM(t, r.first)
	write(r.cert, firstCert)
	write(r.key, firstKey)
	r.wantServed(r.first, nil)
	write(r.cert, cert)
	write(r.key, key)
	r.wantServed(next, nil)
}

func TestFilesOfAnotherNeverReplace(t *testing.T) {
	r := newReloading(t)
	for name, svid := range map[string]*x509svid.SVID{
		"another agent":  agent(t, r.ca, "other"),
		"a broker":       must[*x509svid.SVID](t)(r.ca.Broker("planner", time.Hour)),
		"another domain": issue(t, r.ca, "spiffe://other.org/agent/planner", nil),
	} {
		t.Run(name, func(t *testing.T) {
			cert, key := mustPEM(t, svid)
			writeFile(t, r.cert, cert)
			writeFile(t, r.key, key)
			r.wantServed(r.first, identity.ErrCertificate, r.cert, svid.ID.String(), "spiffe://example.org/agent/planner")
		})
	}
	next := agent(t, r.ca, "planner")
	writeFiles(t, r.ca, r.dir, next)
	r.wantServed(next, nil)
}

func TestFilesDeleted(t *testing.T) {
	r := newReloading(t)
	for _, file := range []string{r.cert, r.key, r.paths.ca} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		r.wantServed(r.first, fs.ErrNotExist, file)
	}
	writeFiles(t, r.ca, r.dir, r.first)
	r.wantServed(r.first, nil)
}

func TestFilesExpiry(t *testing.T) {
	r := newReloading(t)
	writeFiles(t, r.ca, r.dir, expired(t, r.ca, "spiffe://example.org/agent/planner"))
	r.wantServed(r.first, identity.ErrExpired, r.cert, "renew")
	writeFiles(t, r.ca, r.dir, r.first)
	r.wantServed(r.first, nil)

	r.advance(2 * time.Hour)
	_, err := r.src.GetX509SVID()
	wantError(t, err, identity.ErrExpired, r.cert, "expired at", "renew")
	if _, _, err := identity.Self(r.src); err == nil {
		t.Error("Self takes an expired certificate from files")
	}
	if bundle, err := r.src.GetX509BundleForTrustDomain(example); err != nil || bundle.Empty() {
		t.Errorf("the authorities went with the certificate: %v", err)
	}

	next := must[*x509svid.SVID](t)(r.ca.Issue(devca.Template{
		ID: identity.MustParseID("spiffe://example.org/agent/planner"), NotBefore: r.now(), NotAfter: r.now().Add(time.Hour),
	}))
	writeFiles(t, r.ca, r.dir, next)
	r.wantServed(next, nil)
}

// A certificate that begins a little later is taken when it does, although its
// files do not change any more.
func TestFilesNotYetValid(t *testing.T) {
	r := newReloading(t)
	next := must[*x509svid.SVID](t)(r.ca.Issue(devca.Template{
		ID:        identity.MustParseID("spiffe://example.org/agent/planner"),
		NotBefore: r.now().Add(10 * time.Second), NotAfter: r.now().Add(time.Hour),
	}))
	writeFiles(t, r.ca, r.dir, next)
	r.wantServed(r.first, identity.ErrExpired, "begins at")
	r.advance(10 * time.Second)
	r.wantServed(next, nil)
}

// An authority that is taken out of the CA file is no longer trusted, although
// the own certificate is still from it.
func TestFilesAuthorityRemoved(t *testing.T) {
	r := newReloading(t)
	other := newCA(t, "example.org")
	both := append(must[[]byte](t)(r.ca.Bundle().Marshal()), must[[]byte](t)(other.Bundle().Marshal())...)
	bundle := func() *x509bundle.Bundle {
		return must[*x509bundle.Bundle](t)(r.src.GetX509BundleForTrustDomain(example))
	}
	writeFile(t, r.paths.ca, both)
	r.wantServed(r.first, nil)
	if n := len(bundle().X509Authorities()); n != 2 {
		t.Errorf("%d authorities, want 2", n)
	}
	// While it is being written it has neither fewer nor none.
	for n := 0; n < len(both)-1; n += 1 + len(both)/40 {
		if bytes.HasSuffix(bytes.TrimSpace(both[:n]), []byte("-----END CERTIFICATE-----")) {
			continue // a whole file of one authority
		}
		writeFile(t, r.paths.ca, both[:n])
		r.wantServed(r.first, nil, r.paths.ca)
		if n := len(bundle().X509Authorities()); n != 2 {
			t.Errorf("%d authorities, want 2", n)
		}
	}
	firstCert, _ := mustPEM(t, r.first)
	writeFile(t, r.cert, firstCert[:100])
	writeFile(t, r.paths.ca, must[[]byte](t)(other.Bundle().Marshal()))
	r.wantServed(r.first, nil, "cut short", r.cert)
	if bundle().HasX509Authority(r.ca.Bundle().X509Authorities()[0]) {
		t.Error("the removed authority is still trusted while the certificate is half-written")
	}
	writeFile(t, r.cert, firstCert)
	r.wantServed(r.first, nil, "issued by no CA", r.paths.ca)
	if bundle().HasX509Authority(r.ca.Bundle().X509Authorities()[0]) {
		t.Error("the removed authority is still trusted")
	}
	next := agent(t, other, "planner")
	cert, key := mustPEM(t, next)
	writeFile(t, r.cert, cert)
	writeFile(t, r.key, key)
	r.wantServed(next, nil)
}

// Readers see a certificate with its own key at any time.
func TestFilesConcurrently(t *testing.T) {
	r := newReloading(t)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := identity.Self(r.src); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		writeFiles(t, r.ca, r.dir, agent(t, r.ca, "planner"))
		r.advance(identity.CheckInterval)
	}
	close(stop)
	readers.Wait()
}
