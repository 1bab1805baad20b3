//! Expectations (`[when.NAME]`): not health, but whether a check's subject is expected to be there at all.
