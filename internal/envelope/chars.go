package envelope

// Classes of characters. Names are plain ASCII on the wire, so that no two
// that look alike to a person, or to a log, are different.
const (
	charChannel   = 1 << iota // a-z 0-9 _ - / ~
	charSender                // a-z 0-9 _ - . : /
	charRecipient             // A-Z a-z 0-9 _ - .
	charKey                   // visible ASCII
)

var charClasses = func() (t [256]uint8) {
	add := func(class uint8, chars string) {
		for i := range len(chars) {
			t[chars[i]] |= class
		}
	}
	const lower, upper, digits = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	add(charChannel, lower+digits+"_-/~")
	add(charSender, lower+digits+"_-.:/")
	add(charRecipient, lower+upper+digits+"_-.")
	for c := '!'; c <= '~'; c++ {
		t[c] |= charKey
	}
	return t
}()

func only(b []byte, class uint8) bool {
	for _, c := range b {
		class &= charClasses[c]
	}
	return class != 0
}

// hasEmptyToken reports whether NATS would see an empty token in a subject.
func hasEmptyToken(subject []byte) bool {
	dot := true
	for _, c := range subject {
		if c == '.' && dot {
			return true
		}
		dot = c == '.'
	}
	return dot
}
