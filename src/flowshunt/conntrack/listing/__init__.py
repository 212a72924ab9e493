"""Connections as text, in the forms that other tools and their scripts know.

- `dpctl`: lines of `ovs-appctl dpctl/dump-conntrack [-m] [-s]`
- `conntrack8`: lines of `conntrack -L [-o extended,id,ktimestamp,labels]`
- `proc`: lines of /proc/net/nf_conntrack
- `events`: lines of `conntrack -E`
- `json`: a dict with every field always present, null where it has no value

Each module takes one `Connection` and returns one line (or one dict); none sorts, filters or writes. Lines carry no
newline. Depends on the snapshots alone.

May import: the standard library, `flowshunt.conntrack.connection` and `changes`.
"""
