package keyring

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// Witness judges frames long after they were sealed, with no store, no clock and no private key: from the statements that
// it is given, the authorities of the trust domain and the fingerprints of its operators. What it is given may come
// from anybody. It has no say in what is missing. It is safe for concurrent use.
type Witness struct {
	domain    spiffeid.TrustDomain
	anchors   x509bundle.Source
	operators []identity.Fingerprint
	roots     rootCache

	mu       sync.RWMutex
	policies []*signedPolicy // by revision; of one revision in the order in which they were added
	added    uint64
	believed map[[32]byte]struct{}
	cards    map[cardName][]*pastCard
	ncards   int
}

// NewWitness returns a witness of one trust domain. anchors has its authorities, also those of the past whose certificates
// are behind cards of the past; operators are the fingerprints of the keys that may sign policy. Without one it believes
// no policy.
func NewWitness(td spiffeid.TrustDomain, anchors x509bundle.Source, operators ...identity.Fingerprint) *Witness {
	return &Witness{
		domain: td, anchors: anchors,
		operators: slices.DeleteFunc(slices.Clone(operators), identity.Fingerprint.IsZero),
		believed:  make(map[[32]byte]struct{}), cards: make(map[cardName][]*pastCard),
	}
}

func (w *Witness) String() string { return fmt.Sprintf("witness of %s", w.domain.Name()) }

// Format prints String: what is inside is of no use to anybody.
func (w *Witness) Format(s fmt.State, _ rune) { io.WriteString(s, w.String()) }

// Attest checks who has sealed a frame, and whether that agent was entitled to: p is the policy that was in force when the
// frame was logged, one that AddPolicy has returned, and at is when that was, by the clock of whoever logged it. The frame
// is one of the channel ch and as want says, and it is signed, whatever the policy says. It is not from after at, but for
// MaxClockLead, and its sender's card, which AddCard has been given, was valid when it was sealed; and at the time at too, or the
// frame was at most p.MaxCardAge() old by then.
//
// The error is a *Rejection, of the reasons that Ring.Attest has: NoCard says that no card of that sender and id was added,
// Stale also that the card has expired before the frame was sealed, or too long before it was logged, or that the frame says
// it is from before there was such a card. What is no Rejection says nothing of the frame: p is none that this witness believes.
func (w *Witness) Attest(frame []byte, ch policy.Channel, p *policy.Policy, at time.Time, want *Want) (Attested, error) {
	if !w.believes(p) {
		return Attested{}, errors.New("keyring: the policy to judge a frame by is none that this witness believes: AddPolicy returns those")
	}
	b := scratches.Get().(*scratch)
	defer b.release()
	f := &b.frame
	if err := parseFrame(frame, f); err != nil {
		return Attested{}, err
	}
	h, reason, detail := attributable(f, want, ch, p, w.domain, at)
	if reason != 0 {
		return Attested{}, reject(f, reason, detail)
	}
	cards, reason, detail := w.speakers(&h, at, p.MaxCardAge())
	if reason != 0 {
		return Attested{}, reject(f, reason, detail)
	}
	if !slices.ContainsFunc(cards, func(by *card) bool { return w.roots.verify(f, by, b) }) {
		return Attested{}, reject(f, BadSignature, "")
	}
	return attested(f, &h), nil
}

// speakers returns the cards that speak for a frame, or why there are none.
func (w *Witness) speakers(h *claims, at time.Time, maxAge time.Duration) (list []*card, reason Reason, detail string) {
	reason, detail = NoCard, "no card of its sender with that id was added"
	for _, c := range w.pastCards(cardName{h.sender, h.card}) {
		if wrong := c.silentOn(h.at, at, maxAge); wrong != "" {
			reason, detail = Stale, wrong
		} else {
			list = append(list, &c.card)
		}
	}
	if list != nil {
		return list, 0, ""
	}
	return nil, reason, detail
}

// silentOn says why a card does not speak for a frame that was sealed at the time sealed and logged at the time logged;
// empty: it does.
func (c *pastCard) silentOn(sealed, logged time.Time, maxAge time.Duration) string {
	switch {
	case c.tooEarly(sealed):
		return c.early()
	case !sealed.Before(c.expires) || !c.validAt(logged) && logged.Sub(sealed) > maxAge:
		return c.lapse(sealed, maxAge)
	}
	return ""
}
