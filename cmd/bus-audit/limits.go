package main

const (
	maxCA    = 1 << 20  // bytes of the file of authorities
	maxShown = 64 << 10 // bytes of one payload that are printed as text
	maxLine  = 160      // bytes of a text in a list of entries
)
