-- The command line changes what a realm allows, audited. Who issues its certificates, for whom and with which keys stays:
-- that is another realm.

GRANT SELECT ON verification_realm TO keyserver_pipeline;
GRANT UPDATE (code_digits, code_lifetime, long_code_length, long_code_lifetime, test_types, date_required,
              certificate_lifetime, user_report, user_report_webhook, user_report_again, requests_per_minute,
              wrong_codes_per_hour, codes_per_day)
    ON verification_realm TO keyserver_pipeline;
