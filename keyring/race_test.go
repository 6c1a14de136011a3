//go:build race

package keyring

func init() { underRace = true }
