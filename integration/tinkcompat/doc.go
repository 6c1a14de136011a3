// Package tinkcompat proves that the two homes of Tink for Go open each
// other's AEAD keysets and ciphertexts: github.com/google/tink/go, archived at
// v1.7.0, and github.com/tink-crypto/tink-go/v2, which Sealbus uses.
//
// It is a module of its own so that the archived library is in nobody's build
// but this test's. Both libraries register the same protobuf names and panic
// when linked together, so each sits in a program of its own (cmd/tinkv1 and
// cmd/tinkv2) and the test talks to the two as processes. They answer in
// cleartext keysets: they are here to be tested, not to be used.
package tinkcompat
