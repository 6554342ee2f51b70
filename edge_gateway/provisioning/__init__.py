"""How the gateway and its sensors come by their identities at a hub.

An *identity* is a name at a hub and the name of the key that proves it; the key itself is in the key store. They come

- from a connection string, which is erased from where it came (`adoption`),
- from the Device Provisioning Service, by a symmetric key, a group's key, a certificate or a TPM (`dps`, `adoption`),
- for many sensors at once, by a group's key or from a table (`leaves`, `leaf_table`),

and are kept in one file (`identities`). Whatever is cut short is repeated by the same command: a key is accepted by the
service before it takes an older one's place, is in the key store before the identity names it, and is erased from where
it came last of all. So a power cut never leaves neither.
"""
