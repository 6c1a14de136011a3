package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/audit"
)

// trust is what the flags say to go by. That it cannot be read is a mistake in the command, and no verdict on the file.
func (o *options) trust() (audit.Trust, error) {
	raw, err := readFile(o.ca, maxCA)
	if err != nil {
		return audit.Trust{}, wrong("--ca: %w", err)
	}
	nobody := spiffeid.RequireTrustDomainFromString("any")
	found, err := x509bundle.Parse(nobody, raw)
	if err != nil {
		return audit.Trust{}, wrong("--ca %s: %w", o.ca, err)
	}
	td, err := o.trustDomain(found)
	if err != nil {
		return audit.Trust{}, err
	}
	return audit.Trust{Domain: td, Anchors: x509bundle.FromX509Authorities(td, found.X509Authorities()), Operators: o.operators}, nil
}

// trustDomain returns the one that is given, or the one that all authorities name in their certificates.
func (o *options) trustDomain(b *x509bundle.Bundle) (td spiffeid.TrustDomain, err error) {
	if o.domain != "" {
		if td, err = spiffeid.TrustDomainFromString(o.domain); err != nil {
			return td, wrong("--trust-domain: %w", err)
		}
		return td, nil
	}
	none := wrong("the certificates of --ca %s do not all name one trust domain: say which with --trust-domain", o.ca)
	for _, cert := range b.X509Authorities() {
		if len(cert.URIs) != 1 {
			return td, none
		}
		id, err := spiffeid.FromURI(cert.URIs[0])
		if err != nil || !td.IsZero() && td != id.TrustDomain() {
			return td, none
		}
		td = id.TrustDomain()
	}
	if td.IsZero() {
		return td, wrong("--ca %s: no certificate in it", o.ca)
	}
	return td, nil
}

// readFile reads a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory", path)
	case info.Size() > most:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), most)
	}
	raw, err := os.ReadFile(path)
	if err == nil && len(raw) == 0 {
		err = errors.New(path + " is empty")
	}
	return raw, err
}
