"""The Device Provisioning Service: enrolments, registrations, and attestation by key, certificate or TPM."""
