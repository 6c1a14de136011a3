package keyring

import (
	"bytes"
	"crypto/ed25519"
	"testing"
)

// TestRootNames: a name is remembered for exactly what it was made of.
func TestRootNames(t *testing.T) {
	var n rootNames
	public, sig, signed := make([]byte, ed25519.PublicKeySize), make([]byte, ed25519.SignatureSize), []byte("signed")
	check := func(public, sig, signed []byte) {
		t.Helper()
		for range 2 {
			if n.of(public, sig, signed) != rootOf(public, sig, signed) {
				t.Error("another's name")
			}
		}
	}
	check(public, sig, signed)
	for _, part := range []*[]byte{&public, &sig, &signed} {
		for i := range *part {
			changed := bytes.Clone(*part)
			changed[i] ^= 1
			before := *part
			*part = changed
			check(public, sig, signed)
			*part = before
			check(public, sig, signed)
		}
	}
	check(public, sig, signed[:3])
	check(public, sig[:3], signed)
	check(public[:3], sig, signed)
	check(public, sig, nil)
}
