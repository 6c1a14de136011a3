package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// rules has the adversary write into the store what it likes: a policy, and a claim to the keys.
func rules(ctx context.Context, s *scene) error {
	s.say("Policy, cards and keys lie in the broker's store, where the adversary writes what it likes.")
	js, err := jetstream.New(s.enemy.store.nc)
	if err != nil {
		return err
	}
	if err := s.ownPolicy(ctx, js); err != nil {
		return err
	}
	if err := s.ownCard(ctx, js); err != nil {
		return err
	}
	err = s.probe(ctx, findings)
	s.fact(err == nil, "the scout's next message arrives at both readers")
	return err
}

// ownPolicy replaces the policy by one that lets everybody read.
func (s *scene) ownPolicy(ctx context.Context, js jetstream.JetStream) error {
	key, err := identity.GenerateOperatorKey()
	if err != nil {
		return err
	}
	text := strings.NewReplacer("revision: 1", "revision: 2", "[planner, critic]", `["*"]`).Replace(rulesText)
	raw, err := policy.Sign([]byte(text), key, time.Now())
	if err != nil {
		return err
	}
	const what = "a policy that lets everybody read, under its own key"
	before := make(map[*member]uint64)
	for _, m := range s.members() {
		before[m] = m.bus.Stats().Skipped
	}
	current := policy.BucketSubject(policy.BucketPolicy, policy.PolicyKey)
	if _, err := js.Publish(ctx, current, raw); err != nil {
		return err
	}
	refused, followed := 0, 0
	for _, m := range s.members() {
		if eventually(ctx, func() bool { return m.bus.Stats().Skipped > before[m] }) {
			refused++
		}
		if m.bus.Policy().Hash() != s.node.Policy().Hash() {
			followed++
		}
	}
	s.attempt(refused == len(s.members()) && followed == 0, what, fmt.Sprintf("by %d of %d agents", refused, len(s.members())))

	b, err := s.newcomer(ctx)
	s.attempt(errors.Is(err, policy.ErrUntrustedOperator), "the same, to an agent that has only just come", newcomersWord(err))
	if err == nil {
		return b.Close()
	}
	if _, err := js.Publish(ctx, current, s.signed); err != nil {
		return err
	}
	if b, err = s.newcomer(ctx); err != nil {
		return fmt.Errorf("with the true policy back: %w", err)
	}
	s.fact(b.Policy().Hash() == s.node.Policy().Hash(), "with the operator's policy back in its place, the newcomer starts")
	s.figure("agents_that_refused_the_policy", refused)
	s.figure("agents_that_followed_it", followed)
	return b.Close()
}

func newcomersWord(err error) string {
	switch {
	case err == nil:
		return "it follows that"
	case errors.Is(err, policy.ErrUntrustedOperator):
		return "untrusted operator"
	}
	return err.Error()
}

// newcomer connects one more instance of a writer.
func (s *scene) newcomer(ctx context.Context) (*agentbus.Bus, error) {
	src, err := s.ca.AgentSource("writer-1", certLife)
	if err != nil {
		return nil, err
	}
	ring, err := keyring.Memory(s.operator.Fingerprint())
	if err != nil {
		return nil, err
	}
	return agentbus.Connect(ctx, agentbus.Config{Servers: []string{s.node.URL()}, Identity: src, Keyring: ring, Logger: s.log})
}

// ownCard asks for the keys of findings in the planner's name, with a card that an authority of the
// adversary's own vouches for.
func (s *scene) ownCard(ctx context.Context, js jetstream.JetStream) error {
	card, raw, err := forgedCard(s.planner.name)
	if err != nil {
		return err
	}
	ch, err := policy.Topic("findings")
	if err != nil {
		return err
	}
	before := make(map[*member]uint64)
	for _, m := range s.readers() {
		before[m] = m.bus.Stats().Skipped
	}
	for _, entry := range []struct {
		subject string
		value   []byte
	}{
		{policy.BucketSubject(policy.BucketCards, policy.CardKey(s.planner.name, card.String())), raw},
		{policy.BucketSubject(policy.BucketKeys, policy.JoinKey(ch, s.planner.name, card.String())), []byte(s.planner.bus.Self().String())},
	} {
		if _, err := js.Publish(ctx, entry.subject, entry.value); err != nil {
			return err
		}
	}
	refused := 0
	for _, m := range s.readers() {
		if eventually(ctx, func() bool { return m.bus.Stats().Skipped > before[m] }) {
			refused++
		}
	}
	given, err := entries(ctx, js, policy.KeyPrefix(ch)+".w.*."+card.String()+".>")
	if err != nil {
		return err
	}
	wraps, err := entries(ctx, js, policy.KeyPrefix(ch)+".w.>")
	if err != nil {
		return err
	}
	s.attempt(refused == len(s.readers()) && given == 0, "asks for keys as “planner”, under a card of its own",
		fmt.Sprintf("by %d of %d readers; keys given: %d", refused, len(s.readers()), given))
	s.fact(wraps > 0, "who has a true card gets keys: there are %s, each encrypted to one card", plural(wraps, "wrapped key"))
	s.figure("keys_given_to_the_adversary", given)
	s.figure("wrapped_keys", wraps)
	return nil
}

// entries counts the entries of the bucket of keys that match a filter.
func entries(ctx context.Context, js jetstream.JetStream, filter string) (int, error) {
	stream, err := js.Stream(ctx, policy.StreamOfBucket(policy.BucketKeys))
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(policy.BucketSubject(policy.BucketKeys, filter)))
	if err != nil {
		return 0, err
	}
	return len(info.State.Subjects), nil
}

// forgedCard makes a card as an agent does, but for the authority behind it.
func forgedCard(name string) (id ulid.ULID, raw []byte, err error) {
	if id, err = ulid.New(ulid.Timestamp(time.Now()), rand.Reader); err != nil {
		return id, nil, err
	}
	ca, err := devca.New(domain)
	if err != nil {
		return id, nil, err
	}
	svid, err := ca.Agent(name, certLife)
	if err != nil {
		return id, nil, err
	}
	signing, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return id, nil, err
	}
	hpke := make([]byte, 1216)
	if _, err := rand.Read(hpke); err != nil {
		return id, nil, err
	}
	raw, err = identity.SignSVIDStatement("sealbus-card", struct {
		IssuedAt int64  `json:"iat"`
		Agent    string `json:"agent"`
		Card     string `json:"card"`
		HPKE     string `json:"hpke"`
		Ed25519  string `json:"ed25519"`
		Expires  int64  `json:"exp"`
	}{time.Now().Unix(), svid.ID.String(), id.String(), base64.RawURLEncoding.EncodeToString(hpke),
		base64.RawURLEncoding.EncodeToString(signing), svid.Certificates[0].NotAfter.Unix()}, svid)
	return id, raw, err
}
