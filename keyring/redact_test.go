package keyring

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tink-crypto/tink-go/v2/hybrid/hpke"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinked25519 "github.com/tink-crypto/tink-go/v2/signature/ed25519"
)

// spellings returns the ways in which bytes end up in a log.
func spellings(b []byte) [][]byte {
	list := fmt.Sprintf("%v", b) // [1 2 3]
	var gosyntax strings.Builder
	for _, c := range b[:min(len(b), 8)] {
		fmt.Fprintf(&gosyntax, "0x%x, ", c)
	}
	std := base64.StdEncoding.EncodeToString(b)
	forms := []string{string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), strings.Trim(list, "[]"),
		gosyntax.String(), strings.ReplaceAll(strings.Trim(list, "[]"), " ", ","), std[:len(std)/4*3],
		strings.Trim(fmt.Sprintf("%q", b), `"`), strings.Trim(fmt.Sprintf("% x", b), `"`)}
	var all [][]byte
	for _, f := range forms {
		all = append(all, []byte(f))
	}
	return all
}

// TestNothingPrintsSecrets formats everything that holds a key or leads to one, in every way there is.
func TestNothingPrintsSecrets(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader := w.agentIn(filepath.Join(t.TempDir(), "state"), "planner")
		p := w.meet(prices, reader, w.agent("feed-1"))
		check(t, reader.Join(w.ctx(), gossip))
		synctest.Wait()
		k, c := currentKey(t, reader, prices), channelOf(t, reader, prices)
		wk := currentKey(t, p.writer, prices)
		var in *inSession
		for _, in = range p.rc.sessions {
		}
		sr := value(reader.StoredReceiver(prices))(t)
		check(t, sr.Open(p.seal(t, "x"), p.want, new(Opened)))
		var kept *storedSession
		for _, kept = range sr.sessions {
		}
		saved := &savedState{Signing: []byte("the signing keyset"), Keys: c.saved()}
		secrets := map[string][]byte{
			"K": k.k.bytes(), "K_s": wk.own.bytes(), "the passphrase": []byte("correct horse"), "the keyset": []byte("the signing keyset"),
			"the signing key": cleartext(t, reader.own.signing), "the HPKE key": cleartext(t, reader.own.hybrid),
		}
		kek := Passphrase("correct horse")
		for _, v := range []any{
			reader, p.sender, p.rc, sr, kept, *kept, kek, &kek, k.k, &k.k, wk.own, k, *k, wk, &k, []*chanKey{k}, []chanKey{*k}, c, c.keys,
			map[string]secret{"k": k.k}, []secret{k.k}, struct{ Key secret }{k.k}, struct{ key secret }{k.k}, struct{ k *chanKey }{k},
			struct{ k chanKey }{*k}, reader.own, *reader.own, saved, *saved, saved.Keys, saved.Keys[0], &saved.Keys[0], reader.storage,
			*reader.storage, p.sender.session, *p.sender.session, in, *in, reader.att, *reader.att, statementSigner{reader.own},
			struct{ Ring *Ring }{reader}, []any{reader, k}, delivery{key: k}, fmt.Errorf("%v", k), &outSession{key: k},
		} {
			for verb, text := range printed(t, v) {
				for what, s := range secrets {
					for _, form := range spellings(s) {
						if strings.Contains(text, string(form)) {
							t.Errorf("%s of a %T shows %s: %.200s", verb, v, what, text)
						}
					}
				}
			}
		}
	})
}

func printed(t testing.TB, v any) map[string]string {
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t"} {
		out[verb] = fmt.Sprintf(verb, v)
	}
	out["Sprint"] = fmt.Sprint(v)
	switch v.(type) {
	case *savedState, savedState, []savedKey, savedKey, *savedKey:
		// As JSON they are what the directory encrypts.
	default:
		if b, err := json.Marshal(v); err == nil {
			out["json"] = string(b)
		}
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v, "g", slog.GroupValue(slog.Any("v", v)))
	out["slog text"] = b.String()
	b.Reset()
	if _, ok := v.([]savedKey); !ok {
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
		out["slog json"] = b.String()
	}
	return out
}

func cleartext(t testing.TB, h *keyset.Handle) []byte {
	t.Helper()
	switch k := primaryKey(h).(type) {
	case *tinked25519.PrivateKey:
		return k.PrivateKeyBytes().Data(insecuresecretdataaccess.Token{})
	case *hpke.PrivateKey:
		return k.PrivateKeyBytes().Data(insecuresecretdataaccess.Token{})
	}
	t.Fatal("neither kind of key")
	return nil
}

// TestErrorsHoldNoContent: what a frame says of itself is in a rejection; what is sealed in it is not.
func TestErrorsHoldNoContent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		c := craft(t, p.writer, prices, currentKey(t, p.reader, prices), p.subject)
		c.plain = []byte("attack at dawn, attack at dawn, attack at dawn")
		var out Opened
		err := p.rc.Open(c.frame(t), p.want, &out)
		if ReasonOf(err) != BadContent || strings.Contains(err.Error(), "attack") {
			t.Error(err)
		}
		d := draft(p.subject, strings.Repeat("attack at dawn", 100_000))
		if _, _, err := p.sender.Seal(nil, d); err == nil || strings.Contains(err.Error(), "attack") {
			t.Error(err)
		}
		d = draft("bad subject", "attack at dawn")
		if _, _, err := p.sender.Seal(nil, d); err == nil || strings.Contains(err.Error(), "attack") {
			t.Error(err)
		}
	})
}
