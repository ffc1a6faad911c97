package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// parseUser reads a value of -user: UID:GID in numbers, or root, which means to keep root.
func parseUser(s string) (uid, gid int, keep bool, err error) {
	if s == "root" {
		return 0, 0, true, nil
	}
	u, g, _ := strings.Cut(s, ":")
	uid, err1 := parseID(u)
	gid, err2 := parseID(g)
	switch {
	case err1 != nil || err2 != nil:
		return 0, 0, false, errors.New("must be UID:GID, two numbers from 0 to 4294967294, or root")
	case uid == 0:
		// To keep root is a decision, not a number that somebody left at 0.
		return 0, 0, false, errors.New("must be root to keep user 0")
	}
	return uid, gid, false, nil
}

func parseID(s string) (int, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if id == 1<<32-1 {
		err = strconv.ErrRange // the kernel's word for "no change" (setresuid(2))
	}
	return int(id), err
}

// dropPrivileges becomes the user, if this process is root and the user is not to be, and gives up for good whatever else could
// do more than serving needs.
func dropPrivileges(user string) (report string, err error) {
	uid, gid, keep, err := parseUser(user)
	if err != nil {
		return "", err
	}
	boundCapabilities()
	words := "stayed"
	if os.Geteuid() == 0 && !keep {
		if err := become(uid, gid); err != nil {
			return "", fmt.Errorf("cannot become user %s: %w: allow it (CAP_SETUID, CAP_SETGID), start as that user, or with -user root", user, err)
		}
		words = "became"
	}
	left, err := dropCapabilities()
	if err != nil {
		return "", err
	}
	if os.Geteuid() != 0 && syscall.Setuid(0) == nil {
		return "", fmt.Errorf("user %s could become root again: start without setuid bits and capabilities", user)
	}
	return fmt.Sprintf("%s user=%d:%d %s", words, uint32(os.Geteuid()), uint32(os.Getegid()), left), nil
}

// become changes all ids of all threads. The groups first, because only root may.
func become(uid, gid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	return nil
}
