package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/identity"
)

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// forge signs any header and claims with a true key, Ed25519 or ECDSA P-256, so
// that nothing but what they say can be wrong with the statement.
func forge(t testing.TB, head, claims string, key crypto.Signer) []byte {
	t.Helper()
	input := b64([]byte(head)) + "." + b64([]byte(claims))
	return []byte(input + "." + b64(signInput(t, input, key)))
}

func signInput(t testing.TB, input string, key crypto.Signer) []byte {
	t.Helper()
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return must[[]byte](t)(key.Sign(rand.Reader, []byte(input), crypto.Hash(0)))
	}
	sum := sha256.Sum256([]byte(input))
	der := must[[]byte](t)(key.Sign(rand.Reader, sum[:], crypto.SHA256))
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		t.Fatal(err)
	}
	return append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...)
}

const (
	goodHead = `{"alg":"EdDSA","kid":"k","typ":"sealbus-test"}`
	goodBody = `{"iat":1795348800,"name":"n"}`
)

// verify parses and verifies a statement, and checks that a refused one leaves
// nothing behind.
func verify(t testing.TB, raw []byte, key crypto.PublicKey) error {
	t.Helper()
	u, err := identity.ParseStatement(raw, testType)
	if err != nil {
		if u != nil {
			t.Error("a statement along with an error")
		}
		return err
	}
	before := testClaims{Name: "left over", Data: []byte("x")}
	got := before
	s, err := u.Verify(key, &got)
	if err != nil && (s != nil || !reflect.DeepEqual(got, before) && !reflect.DeepEqual(got, testClaims{})) {
		t.Errorf("a statement along with an error: %+v", got)
	}
	return err
}

func TestForgedControl(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	for name, raw := range map[string][]byte{
		"good":                 forge(t, goodHead, goodBody, key),
		"no key id":            forge(t, `{"alg":"EdDSA","typ":"sealbus-test"}`, goodBody, key),
		"other order":          forge(t, `{"typ":"sealbus-test","alg":"EdDSA"}`, `{"name":"n","iat":1}`, key),
		"white space":          forge(t, `{ "typ": "sealbus-test",`+"\n"+`"alg":"EdDSA"}`, `{"name" :"n", "iat": 1}`, key),
		"escapes":              forge(t, `{"\u0074yp":"sealbus\u002dtest","alg":"EdDSA"}`, `{"name":"\u0041","iat":1}`, key),
		"last second of times": forge(t, goodHead, `{"iat":253402300799,"name":""}`, key),
	} {
		if err := verify(t, raw, key.Public()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestForgedHeader(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	jwk := `{"kty":"OKP","crv":"Ed25519","x":"` + b64(key.Public().(ed25519.PublicKey)) + `"}`
	with := func(member string) string { return goodHead[:len(goodHead)-1] + "," + member + "}" }
	for name, test := range map[string]struct{ head, words string }{
		"crit":               {with(`"crit":["exp"],"exp":1`), `"crit"`},
		"crit b64":           {with(`"b64":false,"crit":["b64"]`), `"b64"`},
		"crit empty":         {with(`"crit":[]`), `"crit"`},
		"b64 true":           {with(`"b64":true`), `"b64"`},
		"jwk":                {with(`"jwk":` + jwk), `"jwk"`},
		"jwk null":           {with(`"jwk":null`), `"jwk"`},
		"jku":                {with(`"jku":"https://example.org/keys"`), `"jku"`},
		"x5u":                {with(`"x5u":"https://example.org/chain"`), `"x5u"`},
		"x5t":                {with(`"x5t":"AAAA"`), `"x5t"`},
		"x5t#S256":           {with(`"x5t#S256":"AAAA"`), `"x5t#S256"`},
		"cty":                {with(`"cty":"JWT"`), `"cty"`},
		"zip":                {with(`"zip":"DEF"`), `"zip"`},
		"nonce":              {with(`"nonce":"x"`), `"nonce"`},
		"x5c beside kid":     {with(`"x5c":["AAAA"]`), `both "kid" and "x5c"`},
		"x5c empty":          {`{"alg":"EdDSA","typ":"sealbus-test","x5c":[]}`, `"x5c"`},
		"x5c null":           {`{"alg":"EdDSA","typ":"sealbus-test","x5c":null}`, `"x5c"`},
		"x5c a string":       {`{"alg":"EdDSA","typ":"sealbus-test","x5c":"AAAA"}`, "x5c"},
		"x5c no certificate": {`{"alg":"EdDSA","typ":"sealbus-test","x5c":["AAAA"]}`, "certificate 1"},
		"x5c empty string":   {`{"alg":"EdDSA","typ":"sealbus-test","x5c":[""]}`, "certificate 1"},
		"kid empty":          {`{"alg":"EdDSA","kid":"","typ":"sealbus-test"}`, `"kid"`},
		"kid null":           {`{"alg":"EdDSA","kid":null,"typ":"sealbus-test"}`, `"kid"`},
		"kid a number":       {`{"alg":"EdDSA","kid":1,"typ":"sealbus-test"}`, "kid"},
		"kid with line end":  {`{"alg":"EdDSA","kid":"a\nb","typ":"sealbus-test"}`, "key id"},
		"kid not ASCII":      {`{"alg":"EdDSA","kid":"ä","typ":"sealbus-test"}`, "key id"},
		"kid long":           {`{"alg":"EdDSA","kid":"` + strings.Repeat("k", 129) + `","typ":"sealbus-test"}`, "key id"},
		"typ missing":        {`{"alg":"EdDSA"}`, `"typ": missing`},
		"typ null":           {`{"alg":"EdDSA","typ":null}`, `"typ"`},
		"typ of another":     {`{"alg":"EdDSA","typ":"sealbus-card"}`, `type "sealbus-card" instead of "sealbus-test"`},
		"typ in upper case":  {`{"alg":"EdDSA","typ":"SEALBUS-TEST"}`, "type"},
		"typ as media type":  {`{"alg":"EdDSA","typ":"application/sealbus-test"}`, "type"},
		"alg missing":        {`{"typ":"sealbus-test"}`, `"alg": missing`},
		"alg null":           {`{"alg":null,"typ":"sealbus-test"}`, `"alg"`},
		"alg twice":          {`{"alg":"none","alg":"EdDSA","typ":"sealbus-test"}`, "duplicate"},
		"alg twice, escaped": {`{"alg":"EdDSA","\u0061lg":"EdDSA","typ":"sealbus-test"}`, "duplicate"},
		"typ twice":          {`{"alg":"EdDSA","typ":"sealbus-card","typ":"sealbus-test"}`, "duplicate"},
		"Alg":                {`{"Alg":"EdDSA","typ":"sealbus-test"}`, `"Alg"`},
		"alg and ALG":        {`{"alg":"EdDSA","ALG":"EdDSA","typ":"sealbus-test"}`, `"ALG"`},
		"TYP empty":          {`{"alg":"EdDSA","typ":"sealbus-test","TYP":"sealbus-test"}`, `"TYP"`},
		"KID empty":          {`{"alg":"EdDSA","typ":"sealbus-test","KID":""}`, `"KID"`},
		"Kelvin kid":         {`{"alg":"EdDSA","typ":"sealbus-test","\u212Aid":"k"}`, `id"`},
		"trailing data":      {goodHead + `{}`, "object"},
		"trailing space":     {goodHead + ` `, "nothing else"},
		"leading space":      {` ` + goodHead, "nothing else"},
		"byte order mark":    {"\ufeff" + goodHead, "nothing else"},
		"an array":           {`[` + goodHead + `]`, "object"},
		"a string":           {`"{}"`, "object"},
		"not JSON":           {`{alg}`, "object"},
		"a comment":          {`{"alg":"EdDSA",/**/"typ":"sealbus-test"}`, "object"},
		"not UTF-8":          {`{"alg":"EdDSA","typ":"sealbus-test","kid":"` + "\xff" + `"}`, "UTF-8"},
		"deep":               {`{"alg":"EdDSA","typ":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, "object"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, verify(t, forge(t, test.head, goodBody, key), key.Public()), identity.ErrStatement, "header", test.words)
		})
	}
}

func TestForgedAlgorithm(t *testing.T) {
	keys := testKeys(t)
	ed, p256 := keys["EdDSA"], keys["ES256"]
	p384 := keys["ES384"]
	head := func(alg string) string { return `{"alg":"` + alg + `","typ":"sealbus-test"}` }
	unsigned := func(alg string) string { return b64([]byte(head(alg))) + "." + b64([]byte(goodBody)) }

	t.Run("name that is not the key's", func(t *testing.T) {
		for _, key := range []crypto.Signer{ed, p256} {
			for _, alg := range []string{"none", "None", "NONE", "", "HS256", "HS384", "HS512", "RS256", "PS256", "ES256K", "ES384", "ES512",
				"eddsa", "EDDSA", "Ed25519", "Ed448", "ML-DSA-65", "ES256 ", "dir"} {
				wantError(t, verify(t, forge(t, head(alg), goodBody, key), key.Public()), identity.ErrSignature, "algorithm")
			}
		}
		wantError(t, verify(t, forge(t, head("EdDSA"), goodBody, p256), p256.Public()), identity.ErrSignature, "algorithm")
		wantError(t, verify(t, forge(t, head("ES256"), goodBody, ed), ed.Public()), identity.ErrSignature, "algorithm")
		wantError(t, verify(t, forge(t, head("ES256"), goodBody, p256), p384.Public()), identity.ErrSignature, "algorithm")
	})
	t.Run("none without signature", func(t *testing.T) {
		wantError(t, verify(t, []byte(unsigned("none")+"."), ed.Public()), identity.ErrStatement, "signature")
	})
	t.Run("HS256 with the public key as secret", func(t *testing.T) {
		for _, key := range []crypto.Signer{ed, p256} {
			der := must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
			secrets := map[string][]byte{"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
			if raw, ok := key.Public().(ed25519.PublicKey); ok {
				secrets["raw"] = raw
			}
			for name, secret := range secrets {
				mac := hmac.New(sha256.New, secret)
				mac.Write([]byte(unsigned("HS256")))
				raw := []byte(unsigned("HS256") + "." + b64(mac.Sum(nil)))
				wantError(t, verify(t, raw, key.Public()), identity.ErrSignature, "HS256")
				// Nor when the caller hands the bytes over as the key.
				if verify(t, raw, secret) == nil {
					t.Errorf("%s: bytes are taken for a key", name)
				}
			}
		}
	})
	t.Run("key of another kind", func(t *testing.T) {
		raw := forge(t, head("EdDSA"), goodBody, ed)
		public := ed.Public().(ed25519.PublicKey)
		for _, key := range []crypto.PublicKey{nil, []byte(public), public[:31], &public, ed, "key", (*ecdsa.PublicKey)(nil)} {
			wantError(t, verify(t, raw, key), identity.ErrKeyType)
		}
	})
}

func TestForgedClaims(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	with := func(member string) string { return goodBody[:len(goodBody)-1] + "," + member + "}" }
	for name, test := range map[string]struct{ claims, words string }{
		"no iat":              {`{"name":"n"}`, `"iat" is missing`},
		"iat null":            {`{"iat":null,"name":"n"}`, `"iat" is missing`},
		"iat a string":        {`{"iat":"1","name":"n"}`, `"iat" is missing or no number`},
		"iat a fraction":      {`{"iat":1.5,"name":"n"}`, "whole number"},
		"iat a whole float":   {`{"iat":1.0,"name":"n"}`, "whole number"},
		"iat an exponent":     {`{"iat":1e9,"name":"n"}`, "whole number"},
		"iat zero":            {`{"iat":0,"name":"n"}`, "whole number"},
		"iat negative":        {`{"iat":-1,"name":"n"}`, "whole number"},
		"iat in milliseconds": {`{"iat":1795348800000,"name":"n"}`, "whole number"},
		"iat past int64":      {`{"iat":99999999999999999999,"name":"n"}`, "whole number"},
		"iat twice":           {`{"iat":1,"iat":2,"name":"n"}`, "duplicate"},
		"Iat":                 {`{"Iat":1,"name":"n"}`, `"iat" is missing`},
		"iat and IAT":         {with(`"IAT":1795348800`), `"IAT"`},
		"name missing":        {`{"iat":1}`, `"name": missing`},
		"name null":           {`{"iat":1,"name":null}`, `"name"`},
		"name twice":          {with(`"name":"n"`), "duplicate"},
		"name twice, escaped": {with(`"\u006eame":"n"`), "duplicate"},
		"Name":                {`{"iat":1,"Name":"n"}`, `"Name"`},
		"name and empty NAME": {with(`"NAME":"n"`), `"NAME"`},
		"unknown name":        {with(`"role":"admin"`), `"role"`},
		"unknown null":        {with(`"role":null`), `"role"`},
		"empty name":          {with(`"":1`), `""`},
		"optional null":       {with(`"inner":null`), `"inner"`},
		"optional empty":      {with(`"data":""`), `"data"`},
		"unknown inside":      {with(`"inner":{"x":"1","y":2}`), `"y"`},
		"missing inside":      {with(`"inner":{}`), `"inner.x": missing`},
		"twice inside":        {with(`"inner":{"x":"1","x":"1"}`), "duplicate"},
		"case inside":         {with(`"inner":{"X":"1"}`), `"inner.X"`},
		"empty case inside":   {with(`"inner":{"x":"","X":""}`), `"inner.X"`},
		"unknown in a list":   {with(`"list":[{"x":"1"},{"x":"1","y":2}]`), `"y"`},
		"twice in a list":     {with(`"list":[{"x":"1","x":"2"}]`), "duplicate"},
		"missing in a list":   {with(`"list":[{}]`), `"list"`},
		"case in a list":      {with(`"list":[{"X":"1"}]`), `"list"`},
		"null in a list":      {with(`"list":[null]`), `"list"`},
		"twice in a map":      {with(`"numbers":{"a":1,"a":2}`), "duplicate"},
		"null in a map":       {with(`"numbers":{"a":null}`), `"numbers.a"`},
		"too many for a pair": {with(`"pair":[1,2,3]`), `"pair"`},
		"too few for a pair":  {with(`"pair":[1]`), `"pair"`},
		"base64 line end":     {with(`"data":"AA\nEC"`), `"data"`},
		"base64 stray bits":   {with(`"data":"AB=="`), `"data"`},
		"negative zero":       {with(`"numbers":{"a":-0}`), `"numbers.a"`},
		"ID not canonical":    {with(`"id":"SPIFFE://example.org/agent/a"`), "SPIFFE"},
		"trailing object":     {goodBody + goodBody, "object"},
		"trailing data":       {goodBody + `x`, "nothing else"},
		"trailing space":      {goodBody + "\n", "nothing else"},
		"leading space":       {" " + goodBody, "nothing else"},
		"an array":            {`[` + goodBody + `]`, "object"},
		"null":                {`null`, "object"},
		"not UTF-8":           {`{"iat":1,"name":"` + "\xff" + `"}`, "UTF-8"},
		"deep":                {with(`"inner":` + strings.Repeat(`{"x":`, 30_000) + "1" + strings.Repeat("}", 30_000)), "object"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, verify(t, forge(t, goodHead, test.claims, key), key.Public()), identity.ErrStatement, "claims", test.words)
		})
	}
}

func TestForgedSerialization(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	raw := string(forge(t, goodHead, goodBody, key))
	parts := strings.Split(raw, ".")
	quoted := func(s string) string { return string(must[[]byte](t)(json.Marshal(s))) }
	signature := fmt.Sprintf(`"protected":%s,"signature":%s`, quoted(parts[0]), quoted(parts[2]))
	// A header whose length leaves room for stray bits in its last character.
	short := strings.Split(string(forge(t, `{"alg":"EdDSA","kid":"k1","typ":"sealbus-test"}`, goodBody, key)), ".")
	cases := map[string]string{
		"empty":                  "",
		"one part":               parts[0],
		"two parts":              parts[0] + "." + parts[1],
		"four parts":             raw + "." + parts[2],
		"two signatures":         raw + "." + parts[0] + "." + parts[1] + "." + parts[2],
		"five parts of a JWE":    "a.b.c.d.e",
		"many dots":              strings.Repeat(".", identity.MaxStatement),
		"detached claims":        parts[0] + ".." + parts[2],
		"no header":              "." + parts[1] + "." + parts[2],
		"claims not encoded":     parts[0] + "." + goodBody + "." + parts[2],
		"flattened JSON":         `{"payload":` + quoted(parts[1]) + `,` + signature + `}`,
		"general JSON":           `{"payload":` + quoted(parts[1]) + `,"signatures":[{` + signature + `}]}`,
		"general JSON, two":      `{"payload":` + quoted(parts[1]) + `,"signatures":[{` + signature + `},{` + signature + `}]}`,
		"unprotected header":     `{"payload":` + quoted(parts[1]) + `,"header":{"kid":"x"},` + signature + `}`,
		"standard alphabet":      raw[:len(raw)-2] + "+/",
		"too big":                parts[0] + "." + strings.Repeat("A", identity.MaxStatement) + "." + parts[2],
		"line end after":         raw + "\n",
		"space before":           " " + raw,
		"NUL after":              raw + "\x00",
		"stray bits, signature":  raw[:len(raw)-1] + next(raw[len(raw)-1]),
		"stray bits, header":     short[0][:len(short[0])-1] + next(short[0][len(short[0])-1]) + "." + short[1] + "." + short[2],
		"impossible length":      raw + "A" + "AA",
		"header in other base64": base64.StdEncoding.EncodeToString([]byte(goodHead)) + "." + parts[1] + "." + parts[2],
	}
	for i, part := range []string{"header", "claims", "signature"} {
		changed := func(s string) string {
			all := slices.Clone(parts)
			all[i] = s
			return strings.Join(all, ".")
		}
		cases["line end in "+part] = changed(parts[i][:5] + "\n" + parts[i][5:])
		cases["carriage return in "+part] = changed(parts[i][:5] + "\r" + parts[i][5:])
		cases["padding in "+part] = changed(parts[i] + "==")
		cases["space in "+part] = changed(parts[i][:5] + " " + parts[i][5:])
	}
	for name, raw := range cases {
		t.Run(name, func(t *testing.T) {
			err := verify(t, []byte(raw), key.Public())
			wantError(t, err, identity.ErrStatement)
		})
	}
}

// next is the base64url character after c, which differs from it in the last
// bit.
func next(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

func TestForgedSignature(t *testing.T) {
	keys := testKeys(t)
	for name, alg := range map[string]string{"EdDSA": "EdDSA", "ES256": "ES256"} {
		key, other := keys[name], testKeys(t)[name]
		head := `{"alg":"` + alg + `","kid":"k","typ":"sealbus-test"}`
		raw := forge(t, head, goodBody, key)
		if err := verify(t, raw, key.Public()); err != nil {
			t.Fatal(err)
		}
		wantError(t, verify(t, raw, other.Public()), identity.ErrSignature)
		wantError(t, verify(t, forge(t, head, goodBody, other), key.Public()), identity.ErrSignature)
		// Every byte of every part.
		for i := range raw {
			for _, flip := range []byte{1, 0x80} {
				tampered := bytes.Clone(raw)
				tampered[i] ^= flip
				if verify(t, tampered, key.Public()) == nil {
					t.Fatalf("%s: byte %d changed and accepted", name, i)
				}
			}
		}
		input := string(raw[:strings.LastIndexByte(string(raw), '.')])
		signature := signInput(t, input, key)
		for what, forged := range map[string][]byte{
			"short":    signature[:len(signature)-1],
			"long":     append(bytes.Clone(signature), 0),
			"doubled":  append(bytes.Clone(signature), signature...),
			"zeros":    make([]byte, len(signature)),
			"one byte": {0},
		} {
			err := verify(t, []byte(input+"."+b64(forged)), key.Public())
			if err == nil {
				t.Errorf("%s: %s signature accepted", name, what)
			}
			wantError(t, err, identity.ErrSignature)
		}
	}
}

// An ECDSA signature (r, s) has a twin (r, n-s) that anyone can compute. The
// statement's hash must not tell them apart, or the twin would be another
// statement.
func TestHashIgnoresMalleability(t *testing.T) {
	key := testKeys(t)["ES256"]
	raw := forge(t, `{"alg":"ES256","typ":"sealbus-test"}`, goodBody, key)
	dot := strings.LastIndexByte(string(raw), '.')
	signature := must[[]byte](t)(base64.RawURLEncoding.DecodeString(string(raw[dot+1:])))
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	twin := []byte(string(raw[:dot+1]) + b64(signature))
	if string(twin) == string(raw) {
		t.Fatal("no twin")
	}
	var hashes [2][32]byte
	for i, raw := range [][]byte{raw, twin} {
		if err := verify(t, raw, key.Public()); err != nil {
			t.Fatal(err)
		}
		hashes[i] = must[*identity.Unverified](t)(identity.ParseStatement(raw, testType)).Hash()
	}
	if hashes[0] != hashes[1] {
		t.Error("the twin has another hash")
	}
}

func TestForgedChain(t *testing.T) {
	ca := newCA(t, "example.org")
	svid := agent(t, ca, "planner")
	der := svid.Certificates[0].Raw
	encode := base64.StdEncoding.EncodeToString
	head := func(chain ...string) string {
		return string(must[[]byte](t)(json.Marshal(map[string]any{"alg": "ES256", "typ": testType, "x5c": chain})))
	}
	good := encode(der)
	for name, test := range map[string]struct {
		chain []string
		words string
	}{
		"five certificates":  {[]string{good, good, good, good, good}, "5 certificates, at most 4"},
		"line end inside":    {[]string{good[:64] + "\n" + good[64:]}, "canonical"},
		"base64url":          {[]string{base64.URLEncoding.EncodeToString(append(bytes.Clone(der), 0xff, 0xff))}, "certificate 1"},
		"trailing DER":       {[]string{encode(append(bytes.Clone(der), 0, 0))}, "certificate 1"},
		"two in one":         {[]string{encode(append(bytes.Clone(der), der...))}, "certificate 1"},
		"PEM":                {[]string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, "certificate 1"},
		"second is rubbish":  {[]string{good, "AAAA"}, "certificate 2"},
		"second is empty":    {[]string{good, ""}, "certificate 2"},
		"cut short":          {[]string{encode(der[:len(der)-1])}, "certificate 1"},
		"padding left out":   {[]string{"MA"}, "canonical"},
		"missing altogether": {[]string{}, "x5c"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := identity.ParseStatement(forge(t, head(test.chain...), goodBody, svid.PrivateKey), testType)
			wantError(t, err, identity.ErrStatement, test.words)
		})
	}
	// A certificate of the CA that claims to be the operator is no operator:
	// who expects a key refuses any certificate, even over that same key.
	raw := must[[]byte](t)(identity.SignSVIDStatement(testType, goodClaims(), agent(t, ca, "operator")))
	u := must[*identity.Unverified](t)(identity.ParseStatement(raw, testType))
	_, err := u.Verify(svid.PrivateKey.Public(), &testClaims{})
	wantError(t, err, identity.ErrStatement, "certificate's key")
}
