// coredns is CoreDNS with the plugins that the sandbox needs.
package main

import "github.com/coredns/coredns/coremain"

func main() { coremain.Run() }
