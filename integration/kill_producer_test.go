package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
)

// keyringAt opens the keyring in an agent's state directory.
func keyringAt(s killSpec, operator identity.Fingerprint) (*keyring.Ring, error) {
	return keyring.Open(s.file("state-"+s.Name), keyring.Passphrase("kill test"), operator)
}

// killProducer enqueues until it is killed, and notes which tasks were acknowledged, as an enqueuer has to that asks for
// results after a restart.
func killProducer(s killSpec) error {
	ids, err := os.OpenFile(s.file("ids-"+s.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	b, err := s.connect()
	if err != nil {
		return err
	}
	l := newLedger()
	l.next = s.Life * 1_000_000
	l.note = func(n int, id ulid.ULID) {
		if _, err := fmt.Fprintln(ids, id); err == nil {
			tellTest("acked", n, id)
		}
	}
	for i := range 4 {
		go l.produce(b, math.MaxInt, 1+i/3*20, rand.New(rand.NewPCG(rand.Uint64(), 0)))
	}
	select {} // until it is killed
}

// collectorEnds is what a collector says when it has all results.
const collectorEnds = "no more"

// killCollector awaits the results of all the tasks that an enqueuer of its name has noted.
func killCollector(s killSpec) error {
	file, err := os.Open(s.file("ids-" + s.Name))
	if err != nil {
		return err
	}
	b, err := s.connect()
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		id, err := ulid.ParseStrict(strings.TrimSpace(lines.Text()))
		if err != nil {
			return err
		}
		h, err := b.Task(killQueue, id)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), killPatience)
		m, err := h.Result(ctx)
		cancel()
		if err != nil {
			return err
		}
		tellTest("result", id, fmt.Sprintf("%q", m.Payload))
	}
	tellTest(collectorEnds)
	return b.Close()
}
