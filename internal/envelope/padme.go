package envelope

import "math/bits"

// PadmeSize returns the length that n bytes are padded to: Padmé, from
// Nikitin, Barman, Lueks, Underwood, Hubaux and Ford, "Reducing Metadata
// Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019(4),
// doi 10.2478/popets-2019-0056. It adds less than 12 %, and of lengths up to M
// it leaves O(log log M) bits to be seen, where no padding leaves O(log M). A
// padded size is its own padded size. n is not negative.
func PadmeSize(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1 // floor(log2 n)
	s := bits.Len(uint(e))     // floor(log2 e) + 1
	mask := 1<<(e-s) - 1       // the low bits that become zero
	return (n + mask) &^ mask
}

// AppendPadding appends zeros to dst until the plaintext that begins at
// dst[start] has its Padmé size.
func AppendPadding(dst []byte, start int) []byte {
	n := len(dst) - start
	return append(dst, make([]byte, PadmeSize(n)-n)...)
}

// checkPadding holds only for the one right length of zeros: a freely chosen
// tail would be a place for what no commitment and no handler sees.
func checkPadding(plain, tail []byte) error {
	if len(plain) != PadmeSize(len(plain)-len(tail)) {
		return errPaddingSize
	}
	for _, c := range tail {
		if c != 0 {
			return errPaddingZero
		}
	}
	return nil
}
