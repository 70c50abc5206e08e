"""Whether somebody else can put something else in the place of a path.

What a kernelspec names is looked at first and mounted later, by name, and by root where the gateway is
root. Whoever may write in a folder on the way could exchange a part of the path in between for a link to
anything. bubblewrap takes paths and no descriptors, so such a path is refused instead.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat

#: Longest chain of links that Linux follows (path_resolution(7)).
_MOST_LINKS = 40


def loose_folder(path: str) -> str | None:
    """The first folder on the way to an absolute path in which others may exchange the next step, or None.

    Links on the way are followed, and their folders count too. Others are all but root and this process's
    user. Raises `OSError` where there is no such path.
    """
    place, links = "/", 0
    steps = path.split("/")[::-1]
    while steps:
        name = steps.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        step = os.path.join(place, name)
        status = os.lstat(step)
        if _may_exchange(os.stat(place), status):
            return place
        if not stat.S_ISLNK(status.st_mode):
            place = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"{path} leads through too many links")
        target = os.readlink(step)
        place = "/" if target.startswith("/") else place
        steps += target.split("/")[::-1]
    return None


def _may_exchange(folder: os.stat_result, entry: os.stat_result) -> bool:
    trusted = (0, os.geteuid())
    if folder.st_uid not in trusted:
        return True
    by_group = folder.st_mode & stat.S_IWGRP and not _is_private(folder.st_gid)
    if not by_group and not folder.st_mode & stat.S_IWOTH:
        return False
    # In a folder such as /tmp everybody may exchange what is theirs.
    return not folder.st_mode & stat.S_ISVTX or entry.st_uid not in trusted


def _is_private(gid: int) -> bool:
    """Whether a group is root's, or the one that many systems make for each user alone."""
    if gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
