"""vLLM as a supervised child process: files verified, started, watched, restarted, stopped."""
