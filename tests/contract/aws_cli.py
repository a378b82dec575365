"""A program for clients.py: AWS CLI version 1, forked for each call once it is imported, because its imports take longer than its work.

A line of JSON in, the words after `aws`; a line out, [exit code, stdout, stderr].
"""

import json
import os
import sys
from tempfile import TemporaryFile

import awscli.clidriver

awscli.clidriver.create_clidriver()  # for what it imports

for line in sys.stdin:
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        if (pid := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv[1:] = json.loads(line)
            sys.exit(awscli.clidriver.main())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        print(json.dumps([code, out.read(), err.read()]), flush=True)
