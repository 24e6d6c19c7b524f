package cluster

import (
	"os/exec"
	"syscall"
)

// dieWithParent kills the process if this one dies, and keeps a terminal's interrupt from it: this process decides when it
// drains.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
