package policy

import (
	"fmt"
	"strings"
)

// A unique task has a subject of its own, which is the claim on its key: the broker stores a task there only if the
// last one under the claim's subjects is the one that the enqueuer has seen. What names the key is a hash that only
// the queue's enqueuers can make. The frame's recipient is the subject without its prefix, so that a frame counts
// under no other hash, at no other priority and on no plain subject.

const uniquePrefix = "sb.unique."

// ClaimChars is the length of the hash that stands for a unique task's key: 16 bytes in hex.
const ClaimChars = 32

// UniqueSubject returns the subject that puts a unique task into a queue. The claim is [ClaimChars] digits, or a "*".
func UniqueSubject(queue, claim string, priority int) string {
	return uniquePrefix + UniqueRecipient(queue, claim, priority)
}

// UniqueRecipient returns the recipient that the frame of a unique task names.
func UniqueRecipient(queue, claim string, priority int) string {
	return fmt.Sprintf("%s.%s.%d", queue, claim, priority)
}

// ClaimPattern returns the pattern of the subjects that are one claim, whatever the task's priority.
func ClaimPattern(queue, claim string) string { return uniquePrefix + queue + "." + claim + ".*" }

// UniquePattern returns the pattern of all claims on a queue, for the broker's imports.
func UniquePattern(queue string) string { return ClaimPattern(queue, "*") }

// CutUniqueSubject takes a [UniqueSubject] apart; ok is false for every other subject.
func CutUniqueSubject(nats string) (queue, claim string, priority int, ok bool) {
	rest, ok := strings.CutPrefix(nats, uniquePrefix)
	if !ok {
		return "", "", 0, false
	}
	queue, rest, _ = strings.Cut(rest, ".")
	claim, digit, _ := strings.Cut(rest, ".")
	if !isName(queue) || !isClaim(claim) || len(digit) != 1 || digit[0] < '0' || digit[0] >= '0'+Priorities {
		return "", "", 0, false
	}
	return queue, claim, int(digit[0] - '0'), true
}

func isClaim(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return len(s) == ClaimChars
}
