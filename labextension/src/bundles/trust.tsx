import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { SnapshotModel } from '../model';
import type { Notices } from '../notices';
import type { IImportResult, ISnapshot } from '../types';

/** How much of a public key tells people apart. */
const KEY_LENGTH = 16;

/**
 * Whether what came from elsewhere may run here: that, somebody says who has been told what
 * it means.
 */
export class Trust {
  constructor(
    private readonly model: SnapshotModel,
    private readonly notices: Notices,
    private readonly trans: TranslationBundle
  ) {}

  /**
   * Have somebody say so, unless it is trusted.
   *
   * @param then What is done next, for the button.
   * @returns Whether it is trusted now.
   */
  async ask(snapshot: ISnapshot, then = ''): Promise<boolean> {
    if (snapshot.trusted) {
      return true;
    }
    const { trans } = this;
    const { button } = await showDialog({
      title: trans.__('Trust “%1”?', snapshot.name),
      body: (
        <div className="jp-cr-Trust">
          <Origin signer={snapshot.signer} trans={trans} />
          <Meaning trans={trans} />
        </div>
      ),
      // Whoever presses Enter has not read it.
      defaultButton: 0,
      buttons: [
        Dialog.cancelButton(),
        Dialog.warnButton({ label: then || trans.__('Trust') })
      ]
    });
    return button.accept && (await this.give(snapshot.name));
  }

  /** Tell what has been imported, and ask what is to be asked. */
  async introduce(found: IImportResult): Promise<void> {
    const { trans } = this;
    const { button } = await showDialog({
      title: trans.__('Imported “%1”', found.name),
      body: (
        <div className="jp-cr-Trust">
          {found.missing.length > 0 && (
            <>
              <p>
                <b>
                  {trans.__('It cannot be restored here as things are now:')}
                </b>
              </p>
              <ul>
                {found.missing.map(sentence => (
                  <li key={sentence}>{sentence}</li>
                ))}
              </ul>
            </>
          )}
          {!found.trusted && (
            <>
              <Origin signer={found.signer} trans={trans} />
              <Meaning trans={trans} />
            </>
          )}
        </div>
      ),
      defaultButton: 0,
      buttons: found.trusted
        ? [Dialog.okButton({ label: trans.__('Close') })]
        : [
            Dialog.cancelButton({ label: trans.__('Not Now') }),
            Dialog.warnButton({ label: trans.__('Trust') })
          ]
    });
    if (!found.trusted && button.accept) {
      await this.give(found.name);
    }
  }

  private async give(name: string): Promise<boolean> {
    const { model, notices, trans } = this;
    try {
      await model.client.trust(name);
    } catch (error) {
      notices.fail(error);
      return false;
    }
    notices.tell({ message: trans.__('“%1” is trusted now.', name) });
    return true;
  }
}

/** By whom it was made, as far as that is known. */
function Origin(props: {
  signer: string;
  trans: TranslationBundle;
}): JSX.Element {
  const { signer, trans } = props;
  return (
    <p>
      {signer ? (
        <>
          {trans.__(
            'It was exported by somebody whose key is not among those that you trust:'
          )}{' '}
          <code title={signer}>{signer.slice(0, KEY_LENGTH)}…</code>
        </>
      ) : (
        trans.__('It was not taken here, and nobody has signed it.')
      )}
    </p>
  );
}

/** What it means to trust one. */
function Meaning(props: { trans: TranslationBundle }): JSX.Element {
  const { trans } = props;
  return (
    <p>
      {trans.__(
        'To restore or fork it is to run its code, with all your rights: it could read, change and delete whatever you can. Trust it as you would trust a program of whoever made it.'
      )}
    </p>
  );
}
