package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const (
	domain = "demo.example"
	node   = "node-1"
)

// rulesText is the policy of the story.
const rulesText = `trust_domain: demo.example
revision: 1
topics:
  findings: {publish: [scout, "writer-*"], subscribe: [planner, critic]}
  ledger:   {publish: [scout], subscribe: [planner, critic], audit: [auditor], retain: 24h}
  scratch:  {publish: [scout], subscribe: [planner, critic], signed: false}
services:
  summarise: {call: [planner], serve: ["writer-*"]}
queues:
  pages: {enqueue: [planner], work: ["writer-*"]}
direct:
  - {from: [planner], to: [critic]}
`

// Subjects of the story.
const (
	findings = "findings.text"
	ledger   = "ledger.text"
	scratch  = "scratch.text"
	summary  = "summarise"
)

// stage is everything that the chapters act on.
type stage struct {
	page  *page
	log   *slog.Logger
	text  *input
	work  string // a directory that is removed at the end
	store string // the broker's
	kept  bool   // store stays

	ca       *devca.CA
	operator *identity.OperatorKey
	signed   []byte // the policy
	node     *broker.Node
	enemy    *adversary
	needles  *needles // what the adversary would like to find

	scout, planner, critic, auditor *member
	audit                           *agentbus.Auditor // of the ledger
	second                          *audit.Directory  // where its checkpoints are kept besides
	writers                         []*member
	lock                            tink.AEAD // under which the critic keeps its keys

	first time.Duration // from having connected to the first message
	count int           // of the probes
	once  sync.Once
	ended error
}

// member is an agent of the story, with what it was given and what it refused.
type member struct {
	name    string
	bus     *agentbus.Bus
	ring    *keyring.Ring
	src     *identity.Memory
	until   time.Time
	got     journal[*agentbus.Message]
	refused journal[agentbus.Rejection]
}

// play runs the story and returns what came of it.
func (st *stage) play(ctx context.Context, list []chapter) (r *report, err error) {
	r = &report{Input: source{Name: st.text.name, Bytes: st.text.bytes, Files: st.text.files,
		Messages: len(st.text.pieces), Truncated: st.text.cut}, Chapters: []result{}}
	defer func() {
		// Also when ctx has ended: agents and broker are to stop in order.
		err = errors.Join(err, st.stop(context.WithoutCancel(ctx)))
		if r.OK = err == nil && ctx.Err() == nil && len(list) > 0 && len(r.Chapters) == len(list) && r.failed() == nil; err != nil {
			r.Error = err.Error()
		}
	}()
	if err := st.start(ctx); err != nil {
		return r, err
	}
	st.title()
	for i, c := range list {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		r.Chapters = append(r.Chapters, st.tellOne(ctx, i+1, c))
	}
	st.end(ctx, r)
	return r, nil
}

func (st *stage) title() {
	p := st.page
	p.print(p.paint(bold, "Sealbus") + ": agents talk through a broker that cannot read a word of it.")
	more := ""
	if st.text.cut {
		more = fmt.Sprintf("; the input is longer, this is its first %s bytes", number(st.text.bytes))
	}
	p.say("The text: %s, %s bytes, sent as %s%s.", st.text.name, number(st.text.bytes), plural(len(st.text.pieces), "message"), more)
	p.say("The broker: %s, in this process, storing in %s.", st.node.URL(), st.store)
}

func (st *stage) end(ctx context.Context, r *report) {
	if ctx.Err() != nil {
		return
	}
	failed := r.failed()
	st.page.print("")
	if len(failed) == 0 {
		st.page.print(st.page.paint(green, fmt.Sprintf("All %d chapters held.", len(r.Chapters))))
		return
	}
	st.page.print(st.page.paint(red, fmt.Sprintf("%d of %d chapters did not hold: %v", len(failed), len(r.Chapters), failed)))
}

// start brings up broker, adversary and agents. The adversary listens before anybody speaks.
func (st *stage) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	if st.ca, err = devca.New(domain); err != nil {
		return err
	}
	if st.operator, err = identity.GenerateOperatorKey(); err != nil {
		return err
	}
	if st.signed, err = policy.Sign([]byte(rulesText), st.operator, time.Now()); err != nil {
		return err
	}
	src, err := st.ca.BrokerSource(node, certLife)
	if err != nil {
		return err
	}
	st.node, err = broker.Start(ctx, broker.Config{
		Identity: src, Policy: st.signed, Operators: []identity.Fingerprint{st.operator.Fingerprint()},
		StoreDir: st.store, Listen: "127.0.0.1:0", Logger: st.log,
		AdminClients: true, // for the adversary alone: nobody else needs it
	})
	if err != nil {
		return err
	}
	if st.enemy, err = newAdversary(ctx, st); err != nil {
		return fmt.Errorf("connecting the adversary: %w", err)
	}
	if err := st.gather(ctx); err != nil {
		return err
	}
	if err := st.greet(ctx); err != nil {
		return fmt.Errorf("the first messages: %w", err)
	}
	return st.baseline(ctx)
}

// gather connects the agents. All keep their keys in memory but the critic, who has a state directory to be
// stolen from.
func (st *stage) gather(ctx context.Context) (err error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return err
	}
	if st.lock, err = aead.New(h); err != nil {
		return err
	}
	for _, a := range []struct {
		name string
		to   **member
	}{{"auditor", &st.auditor}, {"scout", &st.scout}, {"planner", &st.planner}, {"critic", &st.critic}} {
		if *a.to, err = st.connect(ctx, a.name); err != nil {
			return fmt.Errorf("connecting %s: %w", a.name, err)
		}
	}
	for _, name := range []string{"writer-1", "writer-2"} {
		w, err := st.connect(ctx, name)
		if err != nil {
			return fmt.Errorf("connecting %s: %w", name, err)
		}
		st.writers = append(st.writers, w)
	}
	return nil
}

func (st *stage) connect(ctx context.Context, name string) (_ *member, err error) {
	m := &member{name: name}
	if m.src, err = st.ca.AgentSource(name, certLife); err != nil {
		return nil, err
	}
	svid, err := m.src.GetX509SVID()
	if err != nil {
		return nil, err
	}
	m.until = svid.Certificates[0].NotAfter
	if name == "critic" {
		m.ring, err = keyring.Open(st.criticDir(), keyring.EncryptWith(st.lock), st.operator.Fingerprint())
	} else {
		m.ring, err = keyring.Memory(st.operator.Fingerprint())
	}
	if err != nil {
		return nil, err
	}
	m.bus, err = agentbus.Connect(ctx, agentbus.Config{
		Servers: []string{st.node.URL()}, Identity: m.src, Keyring: m.ring, Brokers: []string{node}, Logger: st.log,
		OnReject: m.refused.add,
	})
	return m, err
}

func (st *stage) criticDir() string { return filepath.Join(st.work, "critic") }

// members returns all agents.
func (st *stage) members() []*member {
	return append([]*member{st.scout, st.planner, st.critic, st.auditor}, st.writers...)
}

// readers returns those who read the topics.
func (st *stage) readers() []*member { return []*member{st.planner, st.critic} }

// greet subscribes everybody and sends one empty message every way there is. What the broker sees then, in
// names above all, it sees without any of the text: see baseline.
func (st *stage) greet(ctx context.Context) error {
	begin := time.Now()
	for _, m := range st.readers() {
		for _, topic := range []string{"findings.>", "ledger.>", "scratch.>"} {
			if _, err := m.bus.Subscribe(ctx, topic, m.receive); err != nil {
				return err
			}
		}
	}
	if err := st.serve(ctx); err != nil {
		return err
	}
	if err := st.follow(ctx); err != nil {
		return err
	}
	for i, subject := range []string{findings, ledger, scratch} {
		if err := st.probe(ctx, subject); err != nil {
			return err
		}
		if i == 0 {
			st.first = time.Since(begin)
		}
	}
	if _, err := st.planner.bus.Request(ctx, st.critic.name, nil); err != nil {
		return err
	}
	_, err := st.planner.bus.RequestService(ctx, summary, nil)
	return err
}

// follow has the auditor begin, before there is anything to audit.
func (st *stage) follow(ctx context.Context) (err error) {
	if st.second, err = audit.NewDirectory(filepath.Join(st.work, "second")); err != nil {
		return err
	}
	st.audit, err = st.auditor.bus.Audit(ctx, agentbus.AuditConfig{Dir: st.auditDir(), Second: st.second})
	return err
}

func (st *stage) auditDir() string { return filepath.Join(st.work, "audit") }

func (m *member) receive(_ context.Context, msg *agentbus.Message) error {
	m.got.add(msg)
	return nil
}

// probe has the scout publish a message that says nothing, and waits until every reader has it. Whatever was
// sent to the same place before has been judged by then.
func (st *stage) probe(ctx context.Context, subject string) error {
	st.count++
	payload := st.probeText()
	marks := make([]int, 0, 2)
	for _, m := range st.readers() {
		marks = append(marks, m.got.mark())
	}
	if err := st.scout.bus.Publish(ctx, subject, []byte(payload)); err != nil {
		return err
	}
	for i, m := range st.readers() {
		_, ok := m.got.await(ctx, marks[i], func(list []*agentbus.Message) bool {
			for _, msg := range list {
				if msg.Subject == subject && string(msg.Payload) == payload && msg.Sender == st.scout.bus.Self() {
					return true
				}
			}
			return false
		})
		if !ok {
			return fmt.Errorf("a valid message on %s did not reach %s", subject, m.name)
		}
	}
	return nil
}

func (st *stage) probeText() string { return fmt.Sprintf("probe %d", st.count) }

// stop closes agents, adversary and broker, once.
func (st *stage) stop(ctx context.Context) error {
	st.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, closing)
		defer cancel()
		var errs []error
		for _, m := range st.members() {
			if m != nil && m.bus != nil {
				errs = append(errs, m.bus.Close())
			}
		}
		if st.enemy != nil {
			st.enemy.close()
		}
		if st.node != nil {
			errs = append(errs, st.node.Shutdown(ctx))
		}
		st.ended = errors.Join(errs...)
	})
	return st.ended
}
