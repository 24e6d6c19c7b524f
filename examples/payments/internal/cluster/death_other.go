//go:build !linux

package cluster

import (
	"os/exec"
	"syscall"
)

// dieWithParent keeps a terminal's interrupt from the process: this process decides when it drains.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
