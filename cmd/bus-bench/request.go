package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/policy"
)

// requestRules lets one of each two ask the other.
const requestRules = `
direct:
  - {from: [asker], to: [server]}
  - {from: [plain-asker], to: [plain-server]}
`

// request is one agent asking another, which answers with what it was asked: plain, Request and the callback of
// Subscribe, which responds.
func request(name string) trial {
	return trial{name: name, rules: func(point) string { return requestRules }, points: bySizeInFlight, figures: latency,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainAsker(st, at) },
				func() (side, error) { return sealedAsker(ctx, st, at) })
		}}
}

func bySizeInFlight(p pace) (list []point) {
	for i, size := range p.sizes {
		for _, n := range p.inFlight {
			if !p.fewer || i == 0 || n == 1 {
				list = append(list, point{Size: size, InFlight: n})
			}
		}
	}
	return list
}

// asker is one side of a trial of requests.
type asker struct {
	ends
	inFlight int
	ask      func(ctx context.Context) (reply int, err error)
	size     int
	faults   *faults
}

func (a *asker) run(ctx context.Context, d time.Duration) (outcome, error) {
	var wg sync.WaitGroup
	each, errs := make([][]time.Duration, a.inFlight), make([]error, a.inFlight)
	begin := time.Now()
	for i := range a.inFlight {
		wg.Go(func() { each[i], errs[i] = a.loop(ctx, begin.Add(d)) })
	}
	wg.Wait()
	o := outcome{took: time.Since(begin)}
	for _, list := range each {
		o.each = append(o.each, list...)
	}
	o.count = len(o.each)
	for _, err := range errs {
		if err != nil {
			return o, errors.Join(err, a.faults.first()) // the others' are the same
		}
	}
	return o, a.faults.first()
}

func (a *asker) loop(ctx context.Context, until time.Time) (each []time.Duration, err error) {
	each = make([]time.Duration, 0, 1<<13)
	for now := time.Now(); len(each) == 0 || now.Before(until); {
		n, err := a.ask(ctx)
		if err != nil {
			return nil, err
		}
		if n != a.size {
			return nil, fmt.Errorf("a reply has %d bytes, the request had %d", n, a.size)
		}
		begin := now
		now = time.Now()
		each = append(each, now.Sub(begin))
	}
	return each, nil
}

func plainAsker(st *stage, at point) (*asker, error) {
	a := &asker{inFlight: at.InFlight, size: at.Size, faults: st.faults}
	server, err := st.plain("plain-server")
	if err != nil {
		return a, err
	}
	a.plain(server)
	subject := policy.AgentSubject("plain-server")
	if _, err := server.Subscribe(subject, func(m *nats.Msg) {
		if err := m.Respond(m.Data); err != nil {
			st.faults.add(err)
		}
	}); err != nil {
		return a, err
	}
	if err := server.Flush(); err != nil {
		return a, err
	}
	nc, err := st.plain("plain-asker")
	if err != nil {
		return a, err
	}
	a.plain(nc)
	payload := randomBytes(at.Size)
	a.ask = func(context.Context) (int, error) {
		m, err := nc.Request(subject, payload, stall)
		if err != nil {
			return 0, err
		}
		return len(m.Data), nil
	}
	return a, nil
}

func sealedAsker(ctx context.Context, st *stage, at point) (*asker, error) {
	a := &asker{inFlight: at.InFlight, size: at.Size, faults: st.faults}
	server, err := st.sealed(ctx, "server")
	if err != nil {
		return a, err
	}
	a.sealed(server)
	if _, err := server.Serve(ctx, func(_ context.Context, r *agentbus.Message) ([]byte, error) { return r.Payload, nil }); err != nil {
		return a, err
	}
	b, err := st.sealed(ctx, "asker")
	if err != nil {
		return a, err
	}
	a.sealed(b)
	payload := randomBytes(at.Size)
	a.ask = func(ctx context.Context) (int, error) {
		m, err := b.Request(ctx, "server", payload)
		if err != nil {
			return 0, err
		}
		return len(m.Payload), nil
	}
	// So that not all of the first requests have to wait for the key at once: there is little room for that.
	_, err = a.ask(ctx)
	return a, err
}
