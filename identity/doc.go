// Package identity says who is who: the SPIFFE IDs of agents and broker nodes,
// where their certificates come from, the TLS configurations under which they
// meet, and the signed statements that are believed without believing the
// broker that carried them.
//
// # Identities
//
// An [ID] is spiffe://<trust domain>/agent/<name> or
// spiffe://<trust domain>/broker/<node>. It is made by parsers only; the zero
// ID is nobody's.
//
// # Certificates
//
// A [Source] has the own X.509-SVID and the authorities of the trust domain.
// [LoadFiles] reads them from PEM files and picks up what changes, [NewMemory]
// holds them, and go-spiffe's workloadapi.X509Source gets them from SPIRE.
// Package devca issues certificates for development and tests.
//
// # TLS
//
// [ServerTLS] and [ClientTLS] are TLS 1.3 only, mutual, with
// X25519MLKEM768 preferred and no resumption. Host names mean nothing in them,
// SPIFFE IDs everything: clients accept broker nodes of their own trust domain,
// servers its agents and broker nodes.
//
// # Statements
//
// A statement is a compact JWS (RFC 7515) in one strict profile:
//
//   - The header has "alg" and "typ", and either "kid", or "x5c" with at most
//     four certificates, or neither. Every other name is refused, so there is
//     no way to bring a key along ("jwk", "jku", "x5u") or to change the rules
//     ("crit", "b64").
//   - "typ" is exactly the kind of statement that the reader expects.
//   - "alg" must be the one algorithm of the key that the reader verifies with:
//     EdDSA for Ed25519, ES256 and ES384 for ECDSA P-256 and P-384. It never
//     chooses how to verify.
//   - The claims are a JSON object with "iat", whole seconds since 1970.
//   - In header and claims a name that is unknown, missing, in another case or
//     there twice, null, and anything around the object, are refused: the
//     decoded struct must encode to the same object again. White space between
//     tokens and the order of names are free.
//   - The three parts are base64url without padding, line ends or stray bits.
//
// A statement is identified by the SHA-256 of its signing input, not of its
// signature, because anyone can turn an ECDSA signature into a second valid one.
//
// [SignStatement] signs with any key and [Unverified.Verify] verifies with the
// key that the reader expects. [SignSVIDStatement] signs with the key of a
// certificate, which travels along, and [Unverified.VerifySVID] verifies that
// certificate at the present time: the time in "iat" is the signer's word.
// Neither accepts what was made for the other.
//
// # Operator keys
//
// An [OperatorKey] signs policies. Everybody else knows it by its [Fingerprint].
package identity
