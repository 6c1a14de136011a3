package keyring

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"testing/synctest"
)

// vectorPseudonym is what stands for a value among the readers of a vector's channel.
type vectorPseudonym struct {
	Purpose   string   `json:"purpose"`
	Value     string   `json:"value"`
	Info      hexBytes `json:"info"`
	Pseudonym hexBytes `json:"pseudonym"`
}

func (v *vector) withPseudonym(purpose, value string) *vector {
	info := []byte("sealbus/v1 pseudonym")
	for _, part := range []string{v.Channel, purpose, value} {
		info = append(binary.BigEndian.AppendUint16(info, uint16(len(part))), part...)
	}
	v.Pseudonym = &vectorPseudonym{Purpose: purpose, Value: value, Info: info, Pseudonym: derive(v.K, info)[:PseudonymSize]}
	return v
}

func (v *vector) verifyPseudonym(t *testing.T, k secret) {
	p := v.Pseudonym
	equal(t, "pseudonym info", info(labelPseudonym, v.Channel, p.Purpose, p.Value), p.Info)
	equal(t, "pseudonym", value(k.derive(PseudonymSize, labelPseudonym, v.Channel, p.Purpose, p.Value))(t), p.Pseudonym)
}

// TestPseudonyms: readers of a channel make the same ones, different for each value, purpose, channel and key; and nobody else makes any.
func TestPseudonyms(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		planner, other, worker := w.agent("planner"), w.agent("prod-1"), w.agent("exec-1")
		if _, err := planner.Pseudonyms(results, "p", "x"); !errors.Is(err, ErrNoKey) {
			t.Errorf("before it has joined: %v", err)
		}
		for _, r := range []*Ring{planner, other, worker} {
			check(t, r.Join(w.ctx(), results))
		}
		synctest.Wait()
		one := func(r *Ring, purpose, value string) string {
			t.Helper()
			list, err := r.Pseudonyms(results, purpose, value)
			check(t, err)
			if len(list) != len(channelOf(t, r, results).readable()) || len(list[0]) != PseudonymSize {
				t.Fatalf("%d pseudonyms of %d bytes", len(list), len(list[0]))
			}
			return string(list[0])
		}
		seen := make(map[string]string)
		for _, in := range [][2]string{{"p", "x"}, {"p", "y"}, {"px", "x"}, {"q", "x"}, {"p", "xx"}, {"", "px"}, {"p", strings.Repeat("x", MaxPseudonymValue)}} {
			a, b := one(planner, in[0], in[1]), one(other, in[0], in[1])
			if a != b {
				t.Errorf("%q: two readers make different ones", in)
			}
			if before, ok := seen[a]; ok {
				t.Errorf("%q has the same as %q", in, before)
			}
			seen[a] = strings.Join(in[:], "/")
		}
		// As SPEC.md has it.
		text := []byte("sealbus/v1 pseudonym")
		for _, part := range []string{"result/summarise", "p", "x"} {
			text = append(binary.BigEndian.AppendUint16(text, uint16(len(part))), part...)
		}
		want := value(hkdf.Key(sha256.New, currentKey(t, planner, results).k.bytes(), nil, string(text), PseudonymSize))(t)
		if got := one(planner, "p", "x"); got != string(want) {
			t.Errorf("got %x, want %x", got, want)
		}
		for name, err := range map[string]error{
			"a worker":       second(worker.Pseudonyms(results, "p", "x")),
			"another's":      second(planner.Pseudonyms(queue, "p", "x")),
			"nothing":        second(planner.Pseudonyms(results, "p", "")),
			"too much":       second(planner.Pseudonyms(results, "p", strings.Repeat("x", MaxPseudonymValue+1))),
			"a long purpose": second(planner.Pseudonyms(results, strings.Repeat("x", MaxPseudonymValue+1), "x")),
		} {
			if err == nil || (name == "a worker" || name == "another's") != errors.Is(err, ErrNotEntitled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestPseudonymsOverRotation: after a rotation the newest key's comes first, and those of the keys before follow.
func TestPseudonymsOverRotation(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		planner, other := w.agentUntil("planner", month), w.agentUntil("prod-1", month)
		var before []string
		for day := range 4 {
			for _, r := range []*Ring{planner, other} {
				check(t, r.Join(w.ctx(), results))
			}
			synctest.Wait()
			var lists [2][]string
			for i, r := range []*Ring{planner, other} {
				for _, p := range value(r.Pseudonyms(results, "p", "x"))(t) {
					lists[i] = append(lists[i], string(p))
				}
			}
			list := lists[0]
			if !slices.Equal(list, lists[1]) || len(list) != day+1 || !slices.Equal(list[1:], before) {
				t.Fatalf("day %d: %x and %x, the day before %x", day, lists[0], lists[1], before)
			}
			before = list
			pass(25 * 60 * 60 * 1e9)
		}
	})
}

// TestPseudonymsProperty: no two inputs that differ have the same pseudonym, wherever the bytes are cut.
func TestPseudonymsProperty(t *testing.T) {
	k := mustSecret(t)
	differ := func(a, b, c string) bool {
		x, err := k.derive(PseudonymSize, labelPseudonym, "result/q", a, b+c)
		y, wrong := k.derive(PseudonymSize, labelPseudonym, "result/q", a+b, c)
		return err == nil && wrong == nil && (string(x) == string(y)) == (b == "")
	}
	if err := quick.Check(differ, nil); err != nil {
		t.Error(err)
	}
}
