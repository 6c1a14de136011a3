package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
)

// FuzzParseStatement checks that nothing panics, that what is accepted is what
// would be written again, byte for byte, and that nobody's signature verifies.
func FuzzParseStatement(f *testing.F) {
	ca := newCA(f, "example.org")
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)).Public()
	f.Add(must[[]byte](f)(identity.SignStatement(testType, goodClaims(), "key-1", key)))
	f.Add(must[[]byte](f)(identity.SignSVIDStatement(testType, goodClaims(), agent(f, ca, "planner"))))
	f.Add(forge(f, goodHead, goodBody, key))
	f.Add(forge(f, `{"alg":"none","typ":"sealbus-test","x5c":["AAAA"]}`, goodBody, key))
	f.Add(forge(f, `{"alg":"EdDSA","ALG":"EdDSA","typ":"sealbus-test"}`, `{"iat":1,"name":"n","inner":{"X":""}}`, key))
	f.Add([]byte(`{"payload":"","signatures":[]}`))
	other := newCA(f, "example.org")
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := identity.ParseStatement(raw, testType)
		if err != nil {
			return
		}
		if len(raw) > identity.MaxStatement {
			t.Error("larger than allowed")
		}
		for _, part := range strings.Split(string(raw), ".") {
			data, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || b64(data) != part {
				t.Errorf("not canonical: %q", part)
			}
		}
		var claims testClaims
		_ = u.UnverifiedClaims(&claims)
		if _, err := u.Verify(stranger, &claims); err == nil {
			t.Error("verified under a key that signed nothing")
		}
		if _, _, err := u.VerifySVID(other.Bundle(), example, time.Now(), &claims); err == nil {
			t.Error("verified under an authority that issued nothing")
		}
	})
}

// FuzzStrictClaims checks that whatever decodes can be signed again and then
// says the same.
func FuzzStrictClaims(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	f.Add(goodBody)
	f.Add(`{"name":"","iat":1,"numbers":{"a":1},"list":[{"x":""}],"data":"AAEC","pair":[1,2]}`)
	f.Add(`{"iat":1,"name":"n","NAME":"n"}`)
	f.Fuzz(func(t *testing.T, body string) {
		if len(body) > 4096 {
			return
		}
		read := func(raw []byte) (testClaims, error) {
			var claims testClaims
			u, err := identity.ParseStatement(raw, testType)
			if err == nil {
				_, err = u.Verify(key.Public(), &claims)
			}
			return claims, err
		}
		claims, err := read(forge(t, goodHead, body, key))
		if err != nil {
			return
		}
		raw, err := identity.SignStatement(testType, claims, "k", key)
		if err != nil {
			t.Fatalf("%q was accepted and cannot be written: %v", body, err)
		}
		if again, err := read(raw); err != nil || !reflect.DeepEqual(again, claims) {
			t.Fatalf("%q was accepted, and then was %+v, %v", body, again, err)
		}
	})
}
