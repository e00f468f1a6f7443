// Command waybill-kms has the clients of AWS KMS, Google Cloud KMS, Azure Key Vault, and Vault. waybill serve starts it when it
// signs with a key there, talks to it on its standard streams, and ends it.
package main

import (
	"fmt"
	"os"

	"waybill/kms/provider"
)

// version is set by the linker; waybill refuses a program of another.
var version = "dev"

func main() {
	if len(os.Args) > 1 {
		fmt.Println("waybill-kms", version, "is started by waybill serve, and of no use by itself")
		return
	}
	out := os.Stdout
	os.Stdout = os.Stderr // whatever else prints has no place between messages
	if err := provider.Run(os.Stdin, out, version); err != nil {
		fmt.Fprintln(os.Stderr, "waybill-kms:", err)
		os.Exit(1)
	}
}
