package identity

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	pemCertificate = "CERTIFICATE"
	pemPKCS8       = "PRIVATE KEY"
	pemSEC1        = "EC PRIVATE KEY"
	pemEncrypted   = "ENCRYPTED PRIVATE KEY"
	pemPKCS1       = "RSA PRIVATE KEY"
)

// readFile reads a whole file of at most MaxFile bytes.
func readFile(role, name string) ([]byte, error) {
	data, err := readLimited(name)
	if err != nil {
		return nil, &FileError{role, name, err}
	}
	return data, nil
}

func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, bareError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	switch {
	case err != nil:
		return nil, bareError(err)
	case len(data) > MaxFile:
		return nil, fmt.Errorf("more than %d bytes, this is no PEM file of keys or certificates", MaxFile)
	}
	return data, nil
}

// bareError takes the path out of an os error whose FileError names it already.
func bareError(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// pemBlocks returns every block of a PEM file. pem.Decode passes over whatever
// it does not understand; here a block that is cut short is an error, because
// it is what a file looks like while it is being written.
func pemBlocks(data []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	lines := 0 // that begin or end a block, were it only by their first dash
	for line := range bytes.Lines(data) {
		if line[0] == '-' {
			lines++
		}
	}
	switch {
	case len(data) == 0:
		return nil, errors.New("it is empty")
	case lines == 0:
		return nil, errors.New("no PEM in it; convert it to PEM, which begins with -----BEGIN")
	case lines != 2*len(blocks):
		return nil, errors.New("a PEM block is cut short or damaged; write the file again, whole")
	}
	return blocks, nil
}

// parseCertificates returns the certificates of a PEM file, at least one.
// Other blocks are passed over: certificate and key may share a file.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, block := range blocks {
		if block.Type != pemCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no certificate in it, but %s; were the files given in the wrong order?", blocks[0].Type)
	}
	return certs, nil
}

// parseAuthorities returns the certificates of a CA file.
func parseAuthorities(data []byte) ([]*x509.Certificate, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, err
	}
	for i, cert := range certs {
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d in it (%s) is no CA's; give the file of the CA that issued the certificates",
				i+1, describe(cert))
		}
	}
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		// Whoever holds a CA's key can be anybody. Agents and brokers need
		// its certificate only.
		if block.Type != pemCertificate {
			return nil, fmt.Errorf("%s in it; a CA file holds certificates only, move the CA's key away from this machine", block.Type)
		}
	}
	return certs, nil
}

// parsePrivateKey returns the one private key of a PEM file.
func parsePrivateKey(data []byte) (crypto.Signer, error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	var key any
	for _, block := range blocks {
		var parsed any
		switch block.Type {
		case pemPKCS8:
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case pemSEC1:
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case pemEncrypted:
			return nil, errors.New("its private key is encrypted; decrypt it first, with openssl pkcs8")
		case pemPKCS1:
			return nil, fmt.Errorf("%w (RSA): use ECDSA P-256, ECDSA P-384 or Ed25519", ErrKeyType)
		default:
			continue
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("its private key does not parse: %w", err)
		case key != nil:
			return nil, errors.New("two private keys in it; leave the one of the certificate")
		}
		key = parsed
	}
	if key == nil {
		return nil, fmt.Errorf("no private key in it, but %s; were the files given in the wrong order?", blocks[0].Type)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w (%T): use ECDSA P-256, ECDSA P-384 or Ed25519", ErrKeyType, key)
	}
	if _, err := algorithmOf(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// describe names a certificate in an error: by its URI, which is what counts,
// or else by its subject.
func describe(cert *x509.Certificate) string {
	if len(cert.URIs) > 0 {
		return cert.URIs[0].String()
	}
	return cert.Subject.String()
}
