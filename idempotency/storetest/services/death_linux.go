package services

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the server's process when the test's process ends, even if the
// test is killed.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
