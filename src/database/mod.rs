//! Everything that talks to Postgres outside of the measured request.
