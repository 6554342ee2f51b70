"""How people and programs on the same machine talk to the gateway.

`control` is the door of a running one: a socket with requests and answers. What can be asked is in the other files, one
for each part of the gateway; each request works on an open buffer, and the same code answers for a running gateway and
for one that is stopped, whose store the command then opens itself.
"""
