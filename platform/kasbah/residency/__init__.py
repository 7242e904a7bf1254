"""Where data may be processed: sites, versioned policies, the decision, tickets."""
