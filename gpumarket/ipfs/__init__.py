"""Content by CID: import, store, serve, fetch and prove it, without trusting anybody who hands out the bytes.

cid       `Cid`
dagpb     the dag-pb wire format; unixfs: files and directories on top of it
importer  `add_file`, `add_path`          reader  `read_file`, `stream_file`, `resolve`, `ls`, `stat`, `export_path`
store     `BlockStore`, `EmbeddedStore`   kubo    `KuboStore`
car       CARv1 in and out                gateway `routes`, the trustless HTTP face
fetch     `fetch` from untrusted sources  proof   `make_proof`, `verify_proof`
"""
