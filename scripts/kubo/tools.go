//go:build tools

// Package tools pins Kubo, the IPFS daemon that the tests build and run.
package tools

import _ "github.com/ipfs/kubo/cmd/ipfs"
