package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Files is a [Source] of PEM files. Whenever it is asked for something, at most
// once a second, it looks whether the files have changed, also through a
// symbolic link that was pointed elsewhere, and reads them again. A certificate
// and a key that do not fit each other, do not parse, name somebody else, are
// not valid now or were not issued under the CA file never replace the ones in
// use; nor does a CA file that does not parse. The two are replaced separately,
// so that an authority that was taken out of the CA file is no longer trusted
// even while the certificate cannot be renewed.
type Files struct {
	certFile, keyFile, caFile string
	now                       func() time.Time

	current atomic.Pointer[loaded] // what is served

	mu      sync.Mutex // held while files are looked at and read
	checked atomic.Pointer[time.Time]
	seen    []fs.FileInfo // the files as they were read, nil to read in any case
	err     atomic.Pointer[error]
}

// loaded is what the files held when they were last found good. It is
// immutable.
type loaded struct {
	id     ID
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
}

// LoadFiles reads a certificate (with its intermediates, leaf first), its
// private key (PKCS#8 or SEC 1, not encrypted) and the certificates of the
// trust domain's authorities. Certificate and key may share a file. It fails
// when they cannot be used now; the error is one or more [*FileError], which
// name the file and what to do, and match [ErrCertificate], [ErrExpired],
// [ErrInvalidID], [ErrKeyType] or fs.ErrNotExist where that is the cause.
func LoadFiles(certFile, keyFile, caFile string) (*Files, error) {
	return loadFiles(certFile, keyFile, caFile, time.Now)
}

func loadFiles(certFile, keyFile, caFile string, now func() time.Time) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, caFile: caFile, now: now}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// GetX509SVID returns the certificate and its key. It fails with [ErrExpired]
// when the certificate has expired and no newer one can be read.
func (f *Files) GetX509SVID() (*x509svid.SVID, error) {
	f.refresh()
	l := f.current.Load()
	if err := checkValidity(l.svid.Certificates[0], f.now()); err != nil {
		return nil, errors.Join(&FileError{"certificate", f.certFile, err}, f.Err())
	}
	return l.svid, nil
}

// GetX509BundleForTrustDomain returns the authorities of the own trust domain,
// the only one that there is.
func (f *Files) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	f.refresh()
	return f.current.Load().bundle.GetX509BundleForTrustDomain(td)
}

// Err returns why the files, as they were last looked at, were not taken over,
// or nil when what is in use is what they hold.
func (f *Files) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Reload reads the files now, whether they seem changed or not, and returns
// what [Files.Err] returns from then on.
func (f *Files) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = nil
	return f.check()
}

// refresh looks at the files when a second has passed. One caller at a time
// does it; the others go on with what there is, so that a file system that
// hangs stops at most one handshake.
func (f *Files) refresh() {
	if since := f.now().Sub(*f.checked.Load()); 0 <= since && since < checkInterval {
		return
	}
	if !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	_ = f.check() // kept for Err
}

// check looks at the files and reads them if they changed. The caller holds mu.
func (f *Files) check() error {
	now := f.now()
	f.checked.Store(&now)
	// Looked at before they are read: what changes in between is seen the
	// next time.
	infos, err := f.stat()
	if err == nil && unchanged(f.seen, infos) {
		return nil
	}
	f.seen = nil
	if err = f.read(now); err == nil && settled(infos, now) {
		f.seen = infos
	}
	f.err.Store(&err)
	return err
}

func (f *Files) stat() ([]fs.FileInfo, error) {
	var infos []fs.FileInfo
	for _, name := range []string{f.certFile, f.keyFile, f.caFile} {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func unchanged(old, new []fs.FileInfo) bool {
	if len(old) != len(new) {
		return false
	}
	for i := range old {
		if !os.SameFile(old[i], new[i]) || old[i].Size() != new[i].Size() || !old[i].ModTime().Equal(new[i].ModTime()) {
			return false
		}
	}
	return true
}

func settled(infos []fs.FileInfo, now time.Time) bool {
	for _, info := range infos {
		if now.Sub(info.ModTime()) < settleTime {
			return false
		}
	}
	return len(infos) > 0
}

// read reads the files and takes over what is good. The caller holds mu.
func (f *Files) read(now time.Time) error {
	next := loaded{}
	first := f.current.Load() == nil
	if !first {
		next = *f.current.Load()
	}
	id, svid, pairErr := readPair(f.certFile, f.keyFile)
	td := next.id.TrustDomain()
	if first {
		td = id.TrustDomain()
	}
	bundle, caErr := readBundle(f.caFile, td)
	if caErr == nil {
		next.bundle = bundle
	}
	if pairErr == nil && next.bundle != nil {
		pairErr = f.acceptable(id, svid, &next, now)
	}
	if pairErr == nil {
		next.id, next.svid = id, svid
	}
	err := errors.Join(pairErr, caErr)
	if !first || err == nil {
		f.current.Store(&next)
	}
	return err
}

// acceptable checks that a pair may take the place of the one in use, if any.
func (f *Files) acceptable(id ID, svid *x509svid.SVID, next *loaded, now time.Time) error {
	if !next.id.IsZero() && id != next.id {
		return &FileError{"certificate", f.certFile, fmt.Errorf("%w: it is now that of %s instead of %s; "+
			"put the right one back, or restart to become somebody else", ErrCertificate, id, next.id)}
	}
	if _, err := verifyChain(svid.Certificates, next.bundle, id.TrustDomain(), now); err != nil {
		return &FileError{"certificate", f.certFile, fmt.Errorf("%w (CA file %s)", err, f.caFile)}
	}
	return nil
}

func readPair(certFile, keyFile string) (ID, *x509svid.SVID, error) {
	id, svid, certErr := readCertificates(certFile)
	data, keyErr := readFile("key", keyFile)
	if keyErr == nil {
		key, err := parsePrivateKey(data)
		if err != nil {
			keyErr = &FileError{"key", keyFile, err}
		} else if certErr == nil {
			svid.PrivateKey = key
		}
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return ID{}, nil, err
	}
	if !publicKeysEqual(svid.PrivateKey.Public(), svid.Certificates[0].PublicKey) {
		return ID{}, nil, &FileError{"key", keyFile, fmt.Errorf("%w: the key is not that of the certificate in %s; "+
			"give the key that this certificate was issued for", ErrCertificate, certFile)}
	}
	if _, err := checkSVID(svid); err != nil {
		return ID{}, nil, &FileError{"certificate", certFile, err}
	}
	return id, svid, nil
}

func readCertificates(certFile string) (ID, *x509svid.SVID, error) {
	data, err := readFile("certificate", certFile)
	if err != nil {
		return ID{}, nil, err
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return ID{}, nil, &FileError{"certificate", certFile, err}
	}
	id, err := leafID(certs[0])
	if err != nil {
		return ID{}, nil, &FileError{"certificate", certFile, fmt.Errorf("%w: %w", ErrCertificate, err)}
	}
	return id, &x509svid.SVID{ID: id.SPIFFEID(), Certificates: certs}, nil
}

func readBundle(caFile string, td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	data, err := readFile("CA", caFile)
	if err != nil {
		return nil, err
	}
	authorities, err := parseAuthorities(data)
	if err != nil {
		return nil, &FileError{"CA", caFile, err}
	}
	return x509bundle.FromX509Authorities(td, authorities), nil
}
