package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

// refused are texts with the problems that are found in them, each with its line.
var refused = []struct {
	name, text string
	want       []string
}{
	{"empty", "", []string{`1: the policy is empty: start with "trust_domain: example.org" and "revision: 1"`}},
	{"only a comment", "# later\n", []string{`1: the policy is empty: start with "trust_domain: example.org" and "revision: 1"`}},
	{"a list", "- a\n", []string{`1: the policy needs fields: write trust_domain: example.org, and the other fields below it`}},

	// YAML itself.
	{"glob without quotes", head + "topics:\n  prices:\n    publish: [*]\n", []string{
		`5: a * without quotes starts an alias in YAML, and a policy has none: put a glob that starts with it in quotes, as in ["*"]`}},
	{"glob like an alias", head + "topics:\n  prices:\n    publish: [*-eu]\n", []string{
		`5: a * without quotes starts an alias in YAML, and a policy has none: put a glob that starts with it in quotes, as in ["*"]`}},
	{"anchor, alias, tag, merge key", head + "topics: &x {}\nqueues: *x\nservices: !!map {}\n<<: {}\n", []string{
		`3: &x is an anchor, and a policy has none: remove it and write the value out where it is needed`,
		`4: *x is an alias, and a policy has none: write the value out, or put a glob in quotes, as in ["*x"]`,
		`5: !!map is a tag, and a policy has none: remove it`,
		`6: << is a merge key, and a policy has none: write the fields out`}},
	{"local tag", head + "revoked: [!secret bob]\n", []string{`3: !secret is a tag, and a policy has none: remove it`}},
	{"two documents", head + "---\n" + head, []string{
		`3: a second document starts here: a policy is one, so remove this line and what belongs to the other`}},
	{"broken second document", head + "---\na: [b\n", []string{
		`4: what opens with a bracket on line 4 is not closed before here: write the closing bracket, or the comma that is missing`}},
	{"directive", "%YAML 1.2\n---\n" + head, []string{`1: remove the line that starts with %YAML`}},
	{"tab", head + "topics:\n\tprices: {}\n", []string{`4: there is a tab where the line is indented: use spaces`}},
	{"at sign", head + "revoked: @bob\n", []string{`3: no value starts with '@': put the value in quotes`}},
	{"open bracket", head + "revoked: [bob\ntopics: {}\n", []string{
		`4: what opens with a bracket on line 3 is not closed before here: write the closing bracket, or the comma that is missing`}},
	{"open quote", head + "revoked: ['bob]\n", []string{`3: this quote is never closed: write the closing quote`}},
	{"two colons", head + "revoked: a: b\n", []string{
		`3: a second colon is out of place: check the indentation, and put a value that has one in quotes`}},
	{"no colon", head + "topics\n", []string{
		`3: no colon follows here: write the field's name, a colon, a space and its value`}},
	{"bracket that closes nothing", head + "}\n", []string{
		`3: this is not YAML: did not find expected key: check the indentation, and the colon after each field`}},
	{"indentation", head + " topics: {}\n", []string{
		`3: a second colon is out of place: check the indentation, and put a value that has one in quotes`}},
	{"key that is a list", head + "? [a]\n: b\n", []string{`3: a name before a colon is a list here: write one value`}},
	{"key that is null", head + "~: b\n", []string{`3: a name before a colon: YAML does not read ~ as text: put it in quotes, "~"`}},

	// What an editor may not show.
	{"bidirectional text", head + "# a\u202eb\n", []string{
		`3: character U+202E is not allowed: remove it, or type a plain space or line break`}},
	{"line separator", head + "# all is well\u2028revoked: []\n", []string{
		`3: character U+2028 is not allowed: remove it, or type a plain space or line break`}},
	{"next line", head + "# all is well\u0085revoked: []\n", []string{
		`3: character U+0085 is not allowed: remove it, or type a plain space or line break`}},
	{"carriage return", head + "# all is well\rrevoked: []\n", []string{
		`3: character U+000D is not allowed: remove it, or type a plain space or line break`}},
	{"no-break space", head + "revoked:\u00a0[]\n", []string{
		`3: character U+00A0 is not allowed: remove it, or type a plain space or line break`}},
	{"byte order mark", "\ufeff" + head, []string{
		`1: character U+FEFF is not allowed: remove it, or type a plain space or line break`}},
	{"control character", head + "\x01\n", []string{
		`3: character U+0001 is not allowed: remove it, or type a plain space or line break`}},
	{"not UTF-8", head + "# \xff\n", []string{`3: byte 0xff is not UTF-8: save the file as UTF-8`}},
	{"UTF-16", "t\x00r\x00", []string{`1: character U+0000 is not allowed: remove it, or type a plain space or line break`}},

	// The top.
	{"nothing required", "topics: {}\n", []string{
		`1: there is no trust_domain: add "trust_domain: example.org", with the domain of your certificates`,
		`1: there is no revision: add "revision: 1", and count up with every change`}},
	{"misspelt", "trust-domain: example.org\nrevison: 1\ntopic: {}\n", []string{
		`1: the policy has no field "trust-domain": write "trust_domain"`,
		`2: the policy has no field "revison": write "revision"`,
		`3: the policy has no field "topic": write "topics"`}},
	{"unknown field", head + "quota: 3\n", []string{
		`3: the policy has no field "quota": remove it, or write one of trust_domain, revision, previous, operators, topics, queues, services, direct, revoked, max_card_age, destroyed`}},
	{"field twice", head + "revoked: []\nrevision: 8\n", []string{`4: "revision" stands here and on line 2: keep one of them`}},
	{"revision 0", "trust_domain: example.org\nrevision: 0\n", []string{
		`2: revision is 0: write 1 for the first policy, and count up with every change`}},
	{"revision in quotes", "trust_domain: example.org\nrevision: \"1\"\n", []string{
		`2: revision is "1": write a whole number without quotes, such as 1`}},
	{"revision negative", "trust_domain: example.org\nrevision: -1\n", []string{
		`2: revision is "-1": write a whole number without quotes, such as 1`}},
	{"revision octal", "trust_domain: example.org\nrevision: 010\n", []string{`2: revision is 010: write 10`}},
	{"revision hexadecimal", "trust_domain: example.org\nrevision: 0x10\n", []string{
		`2: revision is "0x10": write a whole number without quotes, such as 1`}},
	{"revision with underscore", "trust_domain: example.org\nrevision: 1_0\n", []string{
		`2: revision is "1_0": write a whole number without quotes, such as 1`}},
	{"revision empty", "trust_domain: example.org\nrevision:\n", []string{
		`2: revision is empty: write a whole number without quotes, such as 1`}},
	{"revision a list", "trust_domain: example.org\nrevision: [1]\n", []string{
		`2: revision is a list: write a whole number without quotes, such as 1`}},
	{"revision too high", "trust_domain: example.org\nrevision: 9007199254740992\n", []string{
		`2: revision is 9007199254740992: write at most 9007199254740991`}},
	{"revision far too high", "trust_domain: example.org\nrevision: 99999999999999999999\n", []string{
		`2: revision is 99999999999999999999: write at most 9007199254740991`}},
	{"trust domain upper case", "trust_domain: Example.org\nrevision: 1\n", []string{
		`1: trust_domain is "Example.org": write it in lower case, example.org`}},
	{"trust domain as an id", "trust_domain: spiffe://example.org/agent/bob\nrevision: 1\n", []string{
		`1: trust_domain is "spiffe://example.org/agent/bob": write the domain alone, example.org`}},
	{"trust domain with space", "trust_domain: my company\nrevision: 1\n", []string{
		`1: trust_domain is "my company": write the domain of your certificates, such as example.org`}},
	{"trust domain too long", "trust_domain: " + strings.Repeat("d", 181) + "\nrevision: 1\n", []string{
		`1: trust_domain has 181 bytes: at most 180 are allowed`}},
	{"trust domain a number", "trust_domain: 1\nrevision: 1\n", []string{
		`1: trust_domain: YAML does not read 1 as text: put it in quotes, "1"`}},
	{"previous short", head + "previous: sha256:00\n", []string{
		`3: previous is "sha256:00": write the hash of the policy before, sha256: and 64 of 0-9 and a-f`}},
	{"previous without prefix", head + "previous: " + strings.Repeat("ab", 32) + "\n", []string{
		`3: previous is "` + strings.Repeat("ab", 32) + `": write the hash of the policy before, sha256: and 64 of 0-9 and a-f`}},
	{"previous upper case", head + "previous: sha256:" + strings.Repeat("AB", 32) + "\n", []string{
		`3: previous is "sha256:` + strings.Repeat("AB", 32) + `": write the hash of the policy before, sha256: and 64 of 0-9 and a-f`}},
	{"previous zero", head + "previous: sha256:" + strings.Repeat("00", 32) + "\n", []string{
		`3: previous is all zeros: write the hash of the policy before, or remove the field`}},
	{"previous of the first", "trust_domain: example.org\nrevision: 1\nprevious: sha256:" + strings.Repeat("ab", 32) + "\n", []string{
		`3: revision 1 has no policy before it: remove previous, or write a higher revision`}},
	{"operators", head + "operators:\n- x\n- sha256:" + strings.Repeat("ab", 32) + "\n- sha256:" + strings.Repeat("ab", 32) + "\n", []string{
		`4: "x" is no fingerprint: write sha256: and 64 of 0-9 and a-f, as the operator's key shows it`,
		`6: sha256:` + strings.Repeat("ab", 32) + ` stands twice in operators: remove one`}},
	{"operators no list", head + "operators: {}\n", []string{
		`3: operators is a list: write ["sha256:…"], the fingerprints of the operators' keys`}},

	// Channels.
	{"empty section", head + "topics:\n", []string{
		`3: topics needs an entry for each topic: write its name, a colon and its fields below, or remove topics`}},
	{"section as a list", head + "queues: [a]\n", []string{
		`3: queues needs an entry for each queue: write its name, a colon and its fields below, or remove queues`}},
	{"entry without fields", head + "topics:\n  prices:\nqueues:\n  q: [a]\nservices:\n  s: bob\n", []string{
		`4: topic "prices" needs fields: write {publish: [name], subscribe: [name]}`,
		`6: queue "q" needs fields: write {enqueue: [name], work: [name]}`,
		`8: service "s" needs fields: write {call: [name], serve: [name]}`}},
	{"topic below a topic", head + "topics:\n  prices: {publish: [a], subscribe: [b]}\n  prices.eu: {publish: [a], subscribe: [b]}\n", []string{
		`5: topic "prices" already covers "prices.eu", as everything below it: remove this entry, or give it a name of its own, such as prices-eu`}},
	{"dotted topic", head + "topics:\n  prices.eu: {publish: [a], subscribe: [b]}\n", []string{
		`4: a topic is one name and covers everything below it: write "prices" in place of "prices.eu"`}},
	{"topic with wildcards", head + "topics:\n  prices.*: {publish: [a], subscribe: [b]}\n  \"*\": {publish: [a], subscribe: [b]}\n", []string{
		`4: "prices.*": a topic has a name and no wildcards: write each topic, and globs for the agents in it`,
		`5: "*": a topic has a name and no wildcards: write each topic, and globs for the agents in it`}},
	{"channel names", head + "queues:\n  My Tasks: {enqueue: [a], work: [b]}\n  a.b: {enqueue: [a], work: [b]}\n  ü: {enqueue: [a], work: [b]}\n  12: {enqueue: [a], work: [b]}\n", []string{
		`4: "My Tasks" is no name for a queue: write up to 63 of a-z, 0-9, - and _, starting with a letter or digit, such as my-tasks`,
		`5: "a.b" is no name for a queue: write up to 63 of a-z, 0-9, - and _, starting with a letter or digit, such as a-b`,
		`6: "ü" is no name for a queue: write up to 63 of a-z, 0-9, - and _, starting with a letter or digit`,
		`7: a name before a colon: YAML does not read 12 as text: put it in quotes, "12"`}},
	{"topic twice", head + "topics:\n  prices: {publish: [a], subscribe: [b]}\n  news: {publish: [a], subscribe: [b]}\n  prices: {publish: [c], subscribe: [d]}\n", []string{
		`6: "prices" stands here and on line 4: keep one of them`}},
	{"field twice in a topic", head + "topics:\n  prices:\n    publish: [a]\n    subscribe: [b]\n    publish: [c]\n", []string{
		`7: "publish" stands here and on line 5: keep one of them`}},
	{"misspelt fields", head + "topics:\n  prices: {publishers: [a], subscirbe: [b], max-age: 30s}\n", []string{
		`4: topic "prices" has no field "publishers": write "publish"`,
		`4: topic "prices" has no field "subscirbe": write "subscribe"`,
		`4: topic "prices" has no field "max-age": write "max_age"`}},
	{"fields of other kinds", head + "topics:\n  t: {publish: [a], subscribe: [b], work: [c]}\nqueues:\n  q: {enqueue: [a], work: [b], max_age: 30s}\nservices:\n  s: {call: [a], serve: [b], signed: false}\n", []string{
		`4: topic "t" has no field "work": remove it, or write one of publish, subscribe, audit, max_age, retain, signed, pad, rotate, history`,
		`6: queue "q" has no field "max_age": remove it, or write one of enqueue, work, read, audit, retain, signed, pad, rotate, history`,
		`8: service "s" has no field "signed": remove it, or write one of call, serve, pad, rotate`}},
	{"nobody", head + "topics:\n  prices: {publish: []}\nqueues:\n  q: {work: [a]}\nservices:\n  s: {call: [a], serve: []}\n", []string{
		`4: nobody may subscribe to topic "prices": add subscribe: [name], or remove the entry`,
		`4: nobody may publish to topic "prices": name an agent in publish: [name], or remove the entry`,
		`6: nobody may put tasks into queue "q": add enqueue: [name], or remove the entry`,
		`8: nobody may serve service "s": name an agent in serve: [name], or remove the entry`}},
	{"service with itself", head + "services:\n  s: {call: [a], serve: [a]}\n", []string{
		`4: service "s" names only "a" in both call and serve, and no agent asks itself: name another agent`}},

	// Agents.
	{"no list", head + "topics:\n  prices: {publish: planner, subscribe: \"*\"}\n  news: {publish: {a: b}, subscribe: }\n", []string{
		`4: publish of topic "prices" is a list: write [planner]`,
		`4: subscribe of topic "prices" is a list: write ["*"]`,
		`5: publish of topic "news" is a list: write [name, "glob-*"]`,
		`5: subscribe of topic "news" is a list: write [name, "glob-*"]`}},
	{"patterns", head + `topics:
  prices:
    subscribe: [x]
    publish:
      - "**"
      - "a?"
      - "[ab]"
      - Planner
      - spiffe://example.org/agent/bob
      - -x
      - "_*"
      - a b
      - a.b
      - 007
      - null
      - true
      - [a]
      - {a: b}
      - ""
      - ~
      -
`, []string{
		`7: "**" has two stars in a row: write one, it stands for any number of characters`,
		`8: "a?": a glob knows only *, which stands for any run of characters: write *, or list the names`,
		`9: "[ab]": a glob knows only *, which stands for any run of characters: write *, or list the names`,
		`10: "Planner" matches no agent: names have a-z, 0-9, - and _ and start with a letter or digit, such as planner`,
		`11: "spiffe://example.org/agent/bob" is not an agent's name: write the name alone, without the trust domain, such as bob`,
		`12: "-x" matches no agent: names have a-z, 0-9, - and _ and start with a letter or digit, such as x`,
		`13: "_*" matches no agent: names have a-z, 0-9, - and _ and start with a letter or digit`,
		`14: "a b" matches no agent: names have up to 63 of a-z, 0-9, - and _, such as a-b`,
		`15: "a.b" matches no agent: names have up to 63 of a-z, 0-9, - and _, such as a-b`,
		`16: an entry of publish of topic "prices": YAML does not read 007 as text: put it in quotes, "007"`,
		`17: an entry of publish of topic "prices": YAML does not read null as text: put it in quotes, "null"`,
		`18: an entry of publish of topic "prices": YAML does not read true as text: put it in quotes, "true"`,
		`19: an entry of publish of topic "prices" is a list here: write one value`,
		`20: an entry of publish of topic "prices" has fields here: write one value`,
		`21: an entry of publish of topic "prices" is empty: write a value`,
		`22: an entry of publish of topic "prices": YAML does not read ~ as text: put it in quotes, "~"`,
		`23: an entry of publish of topic "prices" is empty: write a value`}},
	{"too long to match", head + "topics:\n  prices: {publish: [\"" + long + "*n\"], subscribe: [" + long + "n]}\n", []string{
		`4: "` + long + `*n" matches no agent: names have up to 63 of a-z, 0-9, - and _, such as ` + long,
		`4: "` + long + `n" matches no agent: names have up to 63 of a-z, 0-9, - and _, such as ` + long}},
	{"the operator's name", head + "topics:\n  prices: {publish: [operator, broker], subscribe: [\"op*\", \"*r\", \"b*k*\"]}\n", []string{
		`4: "operator" is a name that no agent may use: name another`,
		`4: "broker" is a name that no agent may use: name another`,
		`4: "op*" also matches "operator", a name that no agent may use: write more of the names, as in "agent-*", or list them`,
		`4: "*r" also matches "broker", a name that no agent may use: write more of the names, as in "agent-*", or list them`,
		`4: "b*k*" also matches "broker", a name that no agent may use: write more of the names, as in "agent-*", or list them`}},
	{"listed twice", head + "topics:\n  prices:\n    publish: [a]\n    subscribe:\n      - \"x-*\"\n      - b\n      - \"x-*\"\n", []string{
		`9: "x-*" stands twice in subscribe of topic "prices", first on line 7: remove one`}},

	// Values.
	{"booleans", head + "topics:\n  t: {publish: [a], subscribe: [b], signed: yes, pad: \"true\", history: []}\n  u: {publish: [a], subscribe: [b], signed: True, pad: 1, history: }\n", []string{
		`4: signed of topic "t" is "yes": write true or false`,
		`4: pad of topic "t" is "true": write true or false`,
		`4: history of topic "t" is a list: write true or false`,
		`5: signed of topic "u" is "True": write true or false`,
		`5: pad of topic "u" is "1": write true or false`,
		`5: history of topic "u" is empty: write true or false`}},
	{"durations", head + `topics:
  t:
    publish: [a]
    subscribe: [b]
    max_age: 30
    retain: 1h30m
    rotate: 2 weeks
  u:
    publish: [a]
    subscribe: [b]
    max_age: 11m
    retain: 3651d
    rotate: 30s
  v:
    publish: [a]
    subscribe: [b]
    max_age: 0s
    retain: -1d
    rotate: [1d]
`, []string{
		`7: max_age of topic "t" is "30": it has no unit: write 30s, 30m, 30h or 30d`,
		`8: retain of topic "t" is "1h30m": write one number and one unit: 90m`,
		`9: rotate of topic "t" is "2 weeks": write 14d`,
		`13: max_age of topic "u" is 11m: write at most 10m`,
		`14: retain of topic "u" is 3651d: write at most 3650d`,
		`15: rotate of topic "u" is 30s: write at least 1m`,
		`19: max_age of topic "v" is 0s: write at least 1s`,
		`20: retain of topic "v" is "-1d": write a number and a unit (s, m, h, d), such as 30s or 90d`,
		`21: rotate of topic "v" is a list: write a duration, such as 1d`}},
	{"retain that makes no sense", head + `topics:
  t: {publish: [a], subscribe: [b], retain: 0}
  u: {publish: [a], subscribe: [b], retain: 29s}
  v: {publish: [a], subscribe: [b], retain: 4m, max_age: 5m}
  w: {publish: [a], subscribe: [b], retain: false}
queues:
  q: {enqueue: [a], work: [b], retain: 59s}
`, []string{
		`4: retain of topic "t" is 0: write a duration, such as 90d, or remove the field`,
		`5: retain of topic "u" is 29s, shorter than its max_age of 30s: write at least 30s, or remove it to keep nothing`,
		`6: retain of topic "v" is 4m, shorter than its max_age of 5m: write at least 5m, or remove it to keep nothing`,
		`7: retain of topic "w" is false: write a duration, such as 90d, or remove the field`,
		`9: retain of queue "q" is 59s: write at least 1m`}},

	// Direct rules and revocations.
	{"direct no list", head + "direct: {from: [a], to: [b]}\n", []string{
		`3: direct is a list: write - {from: [name], to: [name]} for each rule`}},
	{"direct rules", head + "direct:\n  - {from: [a], to: [b, c]}\n  - {to: [c, b], from: [a], pad: true}\n  - [a, b]\n  - {from: [a], to: [a]}\n  - {form: [a], to: [b]}\n  - {}\n", []string{
		`5: this rule is for the same agents as that on line 4: keep one of them`,
		`6: a direct rule needs fields: write {from: [name], to: [name]}`,
		`7: a direct rule names only "a" in both from and to, and no agent asks itself: name another agent`,
		`8: a direct rule has no field "form": write "from"`,
		`9: nobody may ask by this rule: add from: [name], or remove the entry`,
		`9: nobody may be asked by this rule: add to: [name], or remove the entry`}},
	{"revoked", head + "revoked:\n  - \"exec-*\"\n  - a\n  - a\n  - Bob\n  - spiffe://example.org/agent/eve\n", []string{
		`4: "exec-*" is a glob: revoke agents by their names, one by one`,
		`6: "a" stands twice in revoked: remove one`,
		`7: "Bob" is no agent's name: write it as it stands after /agent/ in the certificate, such as bob`,
		`8: "spiffe://example.org/agent/eve" is no agent's name: write it as it stands after /agent/ in the certificate, such as eve`}},
	{"revoked no list", head + "revoked: bob\n", []string{`3: revoked is a list: write [bob]`}},
	{"revoked empty", head + "revoked:\n", []string{`3: revoked is a list: write [name]`}},

	// Auditing.
	{"auditors", head + "topics:\n  t: {publish: [a], subscribe: [b], audit: [w]}\n  u: {publish: [a], subscribe: [b], audit: [], retain: 1d}\n" +
		"  v: {publish: [a], subscribe: [b], audit: w, retain: 1d}\n  w: {publish: [a], subscribe: [b], audit: [\"*r\"], retain: 1d}\n" +
		"  x: {publish: [a], subscribe: [b], audit: [w], retian: 1d}\n  y: {publish: [a], subscribe: [b], audit: [w], retain: 0}\n", []string{
		`4: there is nothing to audit, because the broker keeps nothing of topic "t": add retain: 90d, or remove audit`,
		`5: audit of topic "u" is empty: name an agent, or remove the field`,
		`6: audit of topic "v" is a list: write [w]`,
		`7: "*r" also matches "broker", a name that no agent may use: write more of the names, as in "agent-*", or list them`,
		`8: topic "x" has no field "retian": write "retain"`,
		`9: retain of topic "y" is 0: write a duration, such as 90d, or remove the field`}},
	{"readers of queues", head + "queues:\n  q: {enqueue: [a], work: [b], read: []}\n  r: {enqueue: [a], work: [b], read: [c, c], audit: [Bob]}\n" +
		"  s: {enqueue: [a], work: [b], reads: [c]}\ntopics:\n  t: {publish: [a], subscribe: [b], read: [c]}\nservices:\n  u: {call: [a], serve: [b], audit: [c]}\n", []string{
		`4: read of queue "q" is empty: name an agent, or remove the field`,
		`5: "c" stands twice in read of queue "r", first on line 5: remove one`,
		`5: "Bob" matches no agent: names have a-z, 0-9, - and _ and start with a letter or digit, such as bob`,
		`6: queue "s" has no field "reads": write "read"`,
		`8: topic "t" has no field "read": remove it, or write one of publish, subscribe, audit, max_age, retain, signed, pad, rotate, history`,
		`10: service "u" has no field "audit": remove it, or write one of call, serve, pad, rotate`}},
	{"max_card_age", head + "max_card_age: 59m\n", []string{`3: max_card_age of the policy is 59m: write at least 1h`}},
	{"max_card_age too long", head + "max_card_age: 3651d\n", []string{`3: max_card_age of the policy is 3651d: write at most 3650d`}},
	{"max_card_age a number", head + "max_card_age: 7\n", []string{`3: max_card_age of the policy is "7": it has no unit: write 7s, 7m, 7h or 7d`}},

	// Destroyed keys.
	{"destroyed no list", head + "destroyed: topic/t\n", []string{`3: destroyed is a list: write ["topic/t"]`}},
	{"destroyed empty", head + "destroyed:\n", []string{
		`3: destroyed is a list: write [{channel: topic/prices, before: "2026-11-01T00:00:00Z"}]`}},
	{"destroyed", head + "services: {s: {call: [a], serve: [b]}}\nqueues: {q: {enqueue: [a], work: [b]}}\ndestroyed:\n" +
		"  - topic/t\n  - {chanel: service/s, before: \"2026-11-01T00:00:00Z\"}\n  - {channel: service/s}\n  - {before: \"2026-11-01T00:00:00Z\"}\n" +
		"  - {channel: service/t, before: \"2026-11-01T00:00:00Z\"}\n  - {channel: topic/prices, before: \"2026-11-01T00:00:00Z\"}\n" +
		"  - {channel: prices, before: \"2026-11-01T00:00:00Z\"}\n  - {channel: result/q, before: \"2026-11-01T00:00:00Z\"}\n" +
		"  - {channel: pair/a~b, before: \"2026-11-01T00:00:00Z\"}\n  - {channel: service/s, before: \"2026-11-01T00:00:00Z\"}\n" +
		"  - {channel: service/s, before: \"2026-11-02T00:00:00Z\"}\n", []string{
		`6: an entry of destroyed needs fields: write {channel: topic/prices, before: "2026-11-01T00:00:00Z"}`,
		`7: an entry of destroyed has no field "chanel": write "channel"`,
		`8: this entry of destroyed says not until when: add before: "2026-11-01T00:00:00Z", a time in UTC`,
		`9: this entry of destroyed says not which keys: add channel: topic/<name>, queue/<name> or service/<name>`,
		`10: there is no service "t", so nothing would be destroyed: keep it in the policy for as long as this entry, or remove the entry`,
		`11: there is no topic "prices", so nothing would be destroyed: keep it in the policy for as long as this entry, or remove the entry`,
		`12: channel is "prices": write topic/<name>, queue/<name> or service/<name>`,
		`13: result/q goes with its queue: write queue/q, which destroys the keys of both`,
		`14: pair/a~b is of two agents, and nothing of it is kept: write a topic, queue or service`,
		`16: service/s stands in destroyed on line 15 already: keep the entry with the later time`}},
	{"destroyed of a channel that is misspelt", head + "topics: {prices: {publish: [a], subscribe: [b]}}\ndestroyed: [{channel: topic/price, before: \"2026-11-01T00:00:00Z\"}]\n", []string{
		`4: there is no topic "price", so nothing would be destroyed: did you mean topic/prices?`}},
	{"destroyed before", head + "queues: {q: {enqueue: [a], work: [b]}}\ndestroyed:\n" +
		"  - {channel: queue/q, before: 2026-11-01T00:00:00Z}\n  - {channel: queue/q, before: \"2026-11-01\"}\n" +
		"  - {channel: queue/q, before: \"2026-11-01T02:00:00+02:00\"}\n  - {channel: queue/q, before: \"2026-11-01T00:00:00.5Z\"}\n" +
		"  - {channel: queue/q, before: \"1969-12-31T23:59:59Z\"}\n  - {channel: queue/q, before: \"0001-01-01T00:00:00Z\"}\n" +
		"  - {channel: queue/q, before: \"2026-02-30T00:00:00Z\"}\n  - {channel: queue/q, before: [now]}\n  - {channel: queue/q, before: \"\"}\n  - {channel: queue/q, before: }\n", []string{
		`5: before of an entry of destroyed is 2026-11-01T00:00:00Z without quotes: put it in quotes, "2026-11-01T00:00:00Z"`,
		`6: before of an entry of destroyed is "2026-11-01": write a time in UTC, such as "2026-11-01T00:00:00Z"`,
		`7: before of an entry of destroyed is "2026-11-01T02:00:00+02:00": write it in UTC and whole seconds, "2026-11-01T00:00:00Z"`,
		`8: before of an entry of destroyed is "2026-11-01T00:00:00.5Z": write it in UTC and whole seconds, "2026-11-01T00:00:00Z"`,
		`9: before of an entry of destroyed is "1969-12-31T23:59:59Z": write a time in UTC, such as "2026-11-01T00:00:00Z"`,
		`10: before of an entry of destroyed is "0001-01-01T00:00:00Z": write a time in UTC, such as "2026-11-01T00:00:00Z"`,
		`11: before of an entry of destroyed is "2026-02-30T00:00:00Z": write a time in UTC, such as "2026-11-01T00:00:00Z"`,
		`12: before of an entry of destroyed is a list here: write one value`,
		`13: before of an entry of destroyed is empty: write a value`,
		`14: before of an entry of destroyed is empty: write a value`}},
}

func TestParseRefuses(t *testing.T) {
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			p, err := policy.Parse([]byte(test.text))
			var all *policy.Errors
			if !errors.As(err, &all) || p != nil {
				t.Fatalf("got %v, %v", p, err)
			}
			var got []string
			for _, problem := range all.Problems {
				got = append(got, fmt.Sprintf("%d: %s", problem.Line, problem.Msg))
			}
			if g, w := strings.Join(got, "\n"), strings.Join(test.want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}
