// Package sandbox gives up for good what a server does not need: root, capabilities, and all that
// the kernel can refuse. An attacker who takes over the server then gains little.
//
// A server calls DropPrivileges after its last step that needs root, and Fence last of all before
// it serves: its sockets are then bound, and of files it can only read those beneath its root. A
// report is a line for the log: words, then key=value.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// User is who a process started as root becomes. The zero User is root: the process stays root.
type User struct{ uid, gid uint32 }

// ParseUser reads UID:GID, two numbers from 0 to 4294967294 of which the first is not 0, or root.
func ParseUser(s string) (User, error) {
	if s == "root" {
		return User{}, nil
	}
	u, g, _ := strings.Cut(s, ":")
	uid, err1 := parseID(u)
	gid, err2 := parseID(g)
	switch {
	case err1 != nil || err2 != nil:
		return User{}, errors.New("must be UID:GID, two numbers from 0 to 4294967294, or root")
	case uid == 0:
		// To keep root is a decision, not a number that somebody left at 0.
		return User{}, errors.New("must be root to keep user 0")
	}
	return User{uid, gid}, nil
}

func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if id == 1<<32-1 {
		err = strconv.ErrRange // the kernel's word for "no change" (setresuid(2))
	}
	return uint32(id), err
}

// String returns the user as ParseUser reads it.
func (u User) String() string {
	if u.uid == 0 {
		return "root"
	}
	return fmt.Sprintf("%d:%d", u.uid, u.gid)
}

// DropPrivileges becomes the user, if this process is root and the user is not, and gives up all
// capabilities and all ways to regain any. A process that is not root keeps its user. The report
// says who it is now, such as "running as user=65532:65532 capabilities=0x0 no_new_privs=on".
// After an error the process may have lost only a part of its privileges and must not serve.
func DropPrivileges(u User) (report string, err error) {
	boundCapabilities()
	if os.Geteuid() == 0 && u.uid != 0 {
		if err := become(u); err != nil {
			return "", fmt.Errorf("cannot become user %v: %w: allow it (CAP_SETUID, CAP_SETGID), "+
				"start as that user, or choose user root", u, err)
		}
	}
	left, err := dropCapabilities()
	if err != nil {
		return "", err
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if uid != 0 && syscall.Setuid(0) == nil {
		return "", fmt.Errorf("user %d could become root again: start without setuid bits and capabilities", uid)
	}
	return fmt.Sprintf("running as user=%d:%d %s", uid, gid, left), nil
}

// become changes all ids of all threads. The user comes last: only root may change the others.
func become(u User) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setgid(int(u.gid)); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setuid(int(u.uid)); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	return nil
}
